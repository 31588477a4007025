"""BLEU: precision of the answers' word n-grams, with a penalty for brevity."""

from softprompts.metrics import base

from sacrebleu.metrics import BLEU


class Bleu(base.CorpusScore):
    """`compute(predictions=[str], references=[str])` -> `{"bleu": score in 0..1}`.

    Corpus BLEU of `sacrebleu` at its defaults, divided by 100: word n-grams up to 4, tokenizer 13a, case counts,
    exponential smoothing of orders without a match (Papineni et al. 2002; Post 2018). Counts are summed over the rows
    before precisions are taken, so that it is no mean over rows.
    """

    number = "bleu"
    scorer = BLEU()
