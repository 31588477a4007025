"""Base classes of the metric modules, whose numbers follow from sums over rows.

A module imports this file (`from softprompts.metrics import base`) and none of its classes, because `evaluate.load`
uses the first metric class among a module's names.
"""

import sys
from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy


class RowMetric(evaluate.Metric):
    """A metric of predictions and references, both strings, with numbers from sums of statistics over rows.

    row_statistics: from predictions, references and the metric's own settings, (rows, K) float64 numbers.
    from_sums: from their sums over the rows of a sample, (K,), the metric's numbers by name, floats.
    open_only: true if it scores generated predictions, and no choices.
    right_answers: its number that is the share of right answers; None if it measures something else, such as overlap.
    not_compared: its numbers that describe a model without being better if larger; methods are not compared by them.
    """

    open_only = True
    right_answers: str | None = None
    not_compared: tuple[str, ...] = ()
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


def entry_of(reference: str, data: dict[str, Any] | None) -> dict[str, Any]:
    """Return what `task.metric_data` has under a row's reference; an empty entry if it has nothing.

    Raises:
        ValueError: an entry of another form than `{"references": [text], "mentions": [[text]]}`, each optional.
    """
    entry = {} if data is None else data.get(reference.strip(), {})
    texts, mentions = (entry.get(key, []) if isinstance(entry, dict) else None for key in ("references", "mentions"))
    if not (_are_texts(texts) and isinstance(mentions, list) and all(map(_are_texts, mentions)) and all(mentions)):
        raise ValueError(
            f'task.metric_data: "{reference.strip()[:40]}": expected {{"references": [text], "mentions": [[text]]}}'
        )
    found: dict[str, Any] = entry
    return found


def references_of(reference: str, data: dict[str, Any] | None) -> list[str]:
    """Return a row's reference, and the further ones that `task.metric_data` has under it."""
    return [reference, *entry_of(reference, data).get("references", ())]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
