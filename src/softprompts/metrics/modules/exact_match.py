"""Exact match: the share of written answers that equal their reference, letter by letter."""

import datasets
import evaluate
import numpy


class ExactMatch(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` -> `{"exact_match": share in 0..1}`.

    The number of `accuracy` under the name that it has for written answers. Surrounding space does not count, all
    else does: case, punctuation, space within (SQuAD's exact match takes case, punctuation and articles out; this does
    not).
    """

    open_only = False

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of written answers that equal their reference.",
            citation="",
            inputs_description="predictions, references: strings",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return whether each row is right, and 1 for its count, (rows, 2)."""
        pairs = zip(predictions, references, strict=True)
        return numpy.array([[p.strip() == r.strip(), 1] for p, r in pairs], dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        return {"exact_match": float(sums[0] / sums[1])}

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return self.from_sums(self.row_statistics(predictions, references).sum(axis=0))
