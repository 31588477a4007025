"""Base classes of the metric modules, whose numbers follow from sums over rows.

A module imports this file (`from softprompts.metrics import base`) and none of its classes, because `evaluate.load`
uses the first metric class among a module's names.
"""

import sys
from collections.abc import Callable

import datasets
import evaluate
import numpy


class RowMetric(evaluate.Metric):
    """A metric of predictions and references, both strings, with numbers from sums of statistics over rows.

    row_statistics: from predictions, references and the metric's own settings, (rows, K) float64 numbers.
    from_sums: from their sums over the rows of a sample, (K,), the metric's numbers by name, floats.
    open_only: true if it scores generated predictions, and no choices.
    """

    open_only = True
    row_statistics: Callable[..., numpy.ndarray]
    from_sums: Callable[..., dict[str, float]]

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=sys.modules[type(self).__module__].__doc__ or "",
            citation="",
            inputs_description="predictions, references: strings",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str], **settings: object) -> dict[str, float]:
        return self.from_sums(self.row_statistics(predictions, references, **settings).sum(axis=0))


class MeanMetric(RowMetric):
    """A metric that is the mean of `score` over rows, with the name `number`."""

    number: str
    score: Callable[[str, str], float]

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return each row's score, and 1 for its count, (rows, 2)."""
        return numpy.array([[self.score(p, r), 1] for p, r in zip(predictions, references, strict=True)], dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        return {self.number: float(sums[0] / sums[1])}


class Equality(MeanMetric):
    """The share of predictions that equal their reference exactly, except for surrounding space."""

    open_only = False

    def score(self, prediction: str, reference: str) -> float:
        return prediction.strip() == reference.strip()
