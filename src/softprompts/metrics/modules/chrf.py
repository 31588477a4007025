"""chrF: F-score over the character n-grams of answers and references."""

from softprompts.metrics import base

from sacrebleu.metrics import CHRF


class Chrf(base.CorpusScore):
    """`compute(predictions=[str], references=[str])` -> `{"chrf": score in 0..1}`.

    Corpus chrF of `sacrebleu` at its defaults, divided by 100: character n-grams up to 6 without spaces, beta 2
    (recall weighs four times as much), no word n-grams (Popović 2015 and 2016). Counts are summed over the rows before
    precision and recall are taken, so that it is no mean over rows.
    """

    number = "chrf"
    scorer = CHRF()
