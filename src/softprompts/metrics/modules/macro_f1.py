"""Macro F1: the unweighted mean over the classes of each class's F1."""

from softprompts.metrics import base

import numpy

ABSTAINED = "abstain"  # `evaluation.abstain_below` writes this


class MacroF1(base.RowMetric):
    """`compute(predictions=[str], references=[str])` -> `{"macro_f1": mean in 0..1}`.

    The classes are those in predictions or references. A class that is never predicted counts 0. An abstention
    (`evaluation.abstain_below`) is no class: it is a miss of the row's class.
    """

    open_only = False
    choices_only = True

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return each class's matches, then the sums of its predictions and references, (rows, 2 x classes)."""
        answers, targets = numpy.asarray(predictions), numpy.asarray(references)
        names = numpy.unique(numpy.concatenate([answers[answers != ABSTAINED], targets]))
        said, meant = answers[:, None] == names, targets[:, None] == names
        return numpy.hstack([said & meant, said.astype(float) + meant])

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        right, counted = numpy.split(sums, 2)
        seen = counted > 0  # a resample may lack a class
        return {"macro_f1": float(numpy.mean(2 * right[seen] / counted[seen]))}
