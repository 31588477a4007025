"""BLEU: precision of the predictions' word n-grams, with a penalty for brevity."""

from typing import Any

from softprompts.metrics import base

import numpy
from sacrebleu.metrics import BLEU


class Bleu(base.RowMetric):
    """`compute(predictions=[str], references=[str], data=None)` -> `{"bleu": score in 0..1}`.

    Corpus BLEU of `sacrebleu` with its defaults, divided by 100: word n-grams up to 4, tokenizer 13a, case-sensitive,
    exponential smoothing of orders without a match (Papineni et al. 2002; Post 2018). Counts are summed over the rows
    before the precisions are computed, so it is not a mean over rows. `data` may have further references of a target.
    An n-gram then counts as often as in the reference that has most of it, and the closest length counts.
    """

    def row_statistics(
        self, predictions: list[str], references: list[str], data: dict[str, Any] | None = None
    ) -> numpy.ndarray:
        """Return each row's lengths, and matched and predicted n-grams of each order, (rows, 10)."""
        scorer = BLEU(effective_order=True)  # without this it warns about single rows; the counts are the same
        pairs = zip(predictions, references, strict=True)
        scores = [scorer.sentence_score(p, base.references_of(r, data)) for p, r in pairs]
        return numpy.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores], dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        said, meant, *counts = sums.tolist()
        score = BLEU.compute_bleu(counts[:4], counts[4:], int(said), int(meant), smooth_method="exp").score / 100
        return {"bleu": min(score, 1.0)}  # rounding can exceed 1
