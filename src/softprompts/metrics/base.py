"""What the metric modules share: numbers of single rows, whose sums over rows give the metric.

A metric module imports this module and not its classes: `evaluate.load` takes the first metric class that it finds in a
module, and an imported one would be found.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any, ClassVar

import datasets
import evaluate
import numpy

TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})


class RowMetric(evaluate.Metric):
    """A metric that is a function of sums over rows, so that another sample of the rows is another sum.

    open_only: it scores written answers, and no choices; choices_only: the reverse; reference_free: it does not look at
    the references.
    """

    open_only: ClassVar[bool] = False
    choices_only: ClassVar[bool] = False
    reference_free: ClassVar[bool] = False

    @abstractmethod
    def row_statistics(self, predictions: list[str], references: list[str], *_: Any, **settings: Any) -> numpy.ndarray:
        """Return the numbers of each row, float64 (rows, K)."""

    @abstractmethod
    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        """Return the metric's numbers by name, from the sums of `row_statistics` over rows, (K,)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inspect.getdoc(type(self)) or "",
            citation="",
            inputs_description="predictions, references: strings",
            features=TEXTS,
        )

    def _compute(self, predictions: list[str], references: list[str], **settings: Any) -> dict[str, float]:
        return self.from_sums(self.row_statistics(predictions, references, **settings).sum(axis=0))


class RowMean(RowMetric):
    """The mean over rows of one number, which the metric reports as `number`."""

    number: ClassVar[str]

    @abstractmethod
    def row_values(self, predictions: list[str], references: list[str]) -> list[float]:
        """Return the number of each row."""

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return each row's number, and 1 for its count, (rows, 2)."""
        values = self.row_values(predictions, references)
        return numpy.column_stack([numpy.array(values, dtype=float), numpy.ones(len(values))])

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        return {self.number: float(sums[0] / sums[1])}


class EqualShare(RowMean):
    """The share of answers that equal their reference, letter by letter; surrounding space does not count."""

    def row_values(self, predictions: list[str], references: list[str]) -> list[float]:
        return [p.strip() == r.strip() for p, r in zip(predictions, references, strict=True)]


class CorpusScore(RowMetric):
    """A score of `sacrebleu` over a corpus, divided by 100.

    sacrebleu has no public way to keep the counts of single rows, so that two private methods are called here; a test
    compares the outcome with its public `corpus_score`.
    """

    open_only = True
    number: ClassVar[str]
    scorer: ClassVar[Any]

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return each row's counts of n-grams, and for BLEU its lengths, (rows, K)."""
        return numpy.array(self.scorer._extract_corpus_statistics(predictions, [references]), dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        score = self.scorer._compute_score_from_stats(sums.tolist()).score / 100
        return {self.number: min(score, 1.0)}  # rounding can carry it beyond
