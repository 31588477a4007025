"""ROUGE-L: how much of the reference's words an answer has in the same order."""

import unicodedata

from softprompts.metrics import base

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

# Scripts that put no spaces between words, as the names of their letters begin.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class RougeL(base.RowMean):
    """`compute(predictions=[str], references=[str])` -> `{"rouge_l": mean F-measure in 0..1}`.

    Sentence-level F of the longest common subsequence of words, precision and recall weighing the same, averaged over
    rows: `rouge-score`'s rougeL with `use_stemmer=True` (Lin 2004, section 3.1; the words are runs of a-z and 0-9 in
    lower case, those of more than three letters Porter-stemmed). An answer without any such word counts 0.

    If the reference has a letter of another script than Latin, the words of its row are runs of letters, marks and
    digits of any script. Those of a-z and 0-9 are stemmed as before. In scripts without spaces between words (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese, Tibetan) each letter with its marks is a word.
    """

    open_only = True
    number = "rouge_l"

    def row_values(self, predictions: list[str], references: list[str]) -> list[float]:
        latin = RougeScorer(["rougeL"], use_stemmer=True)
        any_script = RougeScorer(["rougeL"], tokenizer=_Words())
        values = []
        for answer, reference in zip(predictions, references, strict=True):
            scorer = latin if _is_latin(reference) else any_script
            values.append(scorer.score(reference, answer)["rougeL"].fmeasure)
        return values


def _is_latin(text: str) -> bool:
    letters = (c for c in text if not c.isascii() and c.isalpha())
    return all(unicodedata.name(c, "").startswith("LATIN") for c in letters)


class _Words:
    """Tokenizer of `rouge-score`: words of any script."""

    def __init__(self) -> None:
        self.latin = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        words: list[str] = []
        before = ""  # what the character before was part of: a word of a spaced script, of an unspaced one, or nothing
        # One form of each letter: composed or with a mark of its own, it is the same text.
        for c in unicodedata.normalize("NFC", text.lower()):
            kind = unicodedata.category(c)[0]
            if kind not in "LMN":  # letters, marks, numbers; all else stands between words
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
