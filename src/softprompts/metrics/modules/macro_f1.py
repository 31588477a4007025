"""Macro F1: the unweighted mean over the classes of each class's F1."""

import datasets
import evaluate
import numpy


class MacroF1(evaluate.Metric):
    """`compute(predictions=[str], references=[str])` -> `{"macro_f1": mean in 0..1}`.

    The classes are those that occur in predictions or references; one that is never predicted counts 0.
    """

    open_only = False
    choices_only = True

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Unweighted mean of the classes' F1.",
            citation="",
            inputs_description="predictions, references: strings",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return for each class whether it was right, then how often it was said and meant, (rows, 2 x classes)."""
        answers, targets = numpy.asarray(predictions), numpy.asarray(references)
        names = numpy.unique(numpy.concatenate([answers, targets]))
        said, meant = answers[:, None] == names, targets[:, None] == names
        return numpy.hstack([said & meant, said.astype(float) + meant])

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        right, counted = numpy.split(sums, 2)
        seen = counted > 0  # a resample may lack a class
        return {"macro_f1": float(numpy.mean(2 * right[seen] / counted[seen]))}

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return self.from_sums(self.row_statistics(predictions, references).sum(axis=0))
