"""Accuracy: the share of predictions that equal their reference."""

import datasets
import evaluate
import numpy


class Accuracy(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` -> `{"accuracy": share in 0..1}`."""

    open_only = False

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference.",
            citation="",
            inputs_description="predictions, references: strings",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return whether each row is right, and 1 for its count, (rows, 2)."""
        return numpy.array([[p == r, 1] for p, r in zip(predictions, references, strict=True)], dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        return {"accuracy": float(sums[0] / sums[1])}

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return self.from_sums(self.row_statistics(predictions, references).sum(axis=0))
