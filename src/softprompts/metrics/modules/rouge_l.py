"""ROUGE-L: overlap of prediction and reference by their longest common sequence of words."""

import unicodedata
from functools import cache

from softprompts.metrics import base

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

# Scripts without spaces between words, by the beginnings of their letters' names.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class RougeL(base.MeanMetric):
    """`compute(predictions=[str], references=[str])` -> `{"rouge_l": mean F-measure in 0..1}`.

    Sentence-level F of the longest common subsequence of words, with equal weights for precision and recall, averaged
    over rows. This is `rouge-score`'s rougeL with `use_stemmer=True` (Lin 2004, section 3.1): words are runs of a-z and
    0-9 in lower case, Porter-stemmed if they have more than three letters. A prediction without such a word counts 0.

    If the reference has a letter of another script than Latin, the words of its row are runs of letters, marks and
    digits of any script. Those of a-z and 0-9 are stemmed as before. In scripts without spaces between words (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese, Tibetan) each letter with its marks is a word.
    """

    number = "rouge_l"

    def score(self, prediction: str, reference: str) -> float:
        measured: float = _scorer(_is_latin(reference)).score(reference, prediction)["rougeL"].fmeasure
        return measured


@cache
def _scorer(latin: bool) -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True) if latin else RougeScorer(["rougeL"], tokenizer=_Words())


def _is_latin(text: str) -> bool:
    letters = (c for c in text if not c.isascii() and c.isalpha())
    return all(unicodedata.name(c, "").startswith("LATIN") for c in letters)


class _Words:
    """Tokenizer of `rouge-score`: words of any script."""

    def __init__(self) -> None:
        self.latin = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        words: list[str] = []
        before = ""  # whether the previous character is in a word of a spaced script, an unspaced one, or none
        # One form of each letter, because composed letters and letters with marks are the same text.
        for c in unicodedata.normalize("NFC", text.lower()):
            kind = unicodedata.category(c)[0]
            if kind not in "LMN":  # letters, marks, numbers; others separate words
                before = ""
            elif kind == "M" and before:
                words[-1] += c
            elif unicodedata.name(c, "").startswith(UNSPACED):
                words.append(c)
                before = "unspaced"
            elif before == "spaced":
                words[-1] += c
            else:
                words.append(c)
                before = "spaced"
        return [w for word in words for w in (self.latin.tokenize(word) if word.isascii() else [word])]
