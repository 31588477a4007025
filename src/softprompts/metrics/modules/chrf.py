"""chrF: F-score over the character n-grams of predictions and references."""

from itertools import zip_longest
from typing import Any

from softprompts.metrics import base

import numpy
from sacrebleu.metrics import CHRF


class Chrf(base.RowMetric):
    """`compute(predictions=[str], references=[str], data=None)` -> `{"chrf": score in 0..1}`.

    Corpus chrF of `sacrebleu` with its defaults, divided by 100: character n-grams up to 6 without spaces, beta 2
    (recall weighs four times as much), no word n-grams (Popović 2015 and 2016). Counts are summed over the rows before
    precision and recall are computed, so it is not a mean over rows. `data` may have further references of a target.
    The reference that is nearest to the prediction then counts.
    """

    def row_statistics(
        self, predictions: list[str], references: list[str], data: dict[str, Any] | None = None
    ) -> numpy.ndarray:
        """Return each row's predicted, expected and matched n-grams of each order, (rows, 18)."""
        # sacrebleu reads the n-th reference of all rows together, None if a row has fewer.
        streams = list(zip_longest(*(base.references_of(r, data) for r in references)))
        # Private, as `_compute_score_from_stats` is: sacrebleu has no public way to the counts of chrF.
        return numpy.array(CHRF()._extract_corpus_statistics(predictions, streams), dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        score = CHRF()._compute_score_from_stats(sums.tolist()).score / 100
        return {"chrf": min(score, 1.0)}  # rounding can exceed 1
