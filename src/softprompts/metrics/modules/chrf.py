"""chrF: F-score over the character n-grams of answers and references."""

import datasets
import evaluate
import numpy
from sacrebleu.metrics import CHRF


class Chrf(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` -> `{"chrf": score in 0..1}`.

    Corpus chrF of `sacrebleu` at its defaults, divided by 100: character n-grams up to 6 without spaces, beta 2
    (recall weighs four times as much), no word n-grams (Popović 2015 and 2016). Counts are summed over the rows before
    precision and recall are taken, so that it is no mean over rows.
    """

    open_only = True

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus chrF over character n-grams.",
            citation="",
            inputs_description="predictions, references: strings",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return each row's n-grams said, meant and matched of each order, (rows, 18)."""
        return numpy.array(CHRF()._extract_corpus_statistics(predictions, [references]), dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        score = CHRF()._compute_score_from_stats(sums.tolist()).score / 100
        return {"chrf": min(score, 1.0)}  # rounding can carry it beyond

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return self.from_sums(self.row_statistics(predictions, references).sum(axis=0))
