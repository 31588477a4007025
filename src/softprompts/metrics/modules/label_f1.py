"""F1 of answers that are sets of labels: over all decisions, and as the mean over the labels."""

import re

from softprompts.metrics import base

import numpy

SEPARATOR = re.compile(r"[,;](?:\s+|$)")


class LabelF1(base.RowMetric):
    """`compute(predictions=[str], references=[str])` -> `{"micro_f1": in 0..1, "macro_label_f1": in 0..1}`.

    A text is a set of labels, parted by ", " or "; "; order and repetition do not count, case does. The empty set is
    written as a label of its own, e.g. "none", and counts as one, as LexGLUE scores UNFAIR-ToS (Chalkidis et al. 2022:
    its scripts add a column for "no label" to references and predictions). `micro_f1` is taken over all labels of all
    rows; a label that no reference has is a false positive. `macro_label_f1` is the unweighted mean of the labels' F1,
    over the labels that occur in the references of these rows.
    """

    open_only = True

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return what was right, said and meant: each label, then the number of all, (rows, 3 x labels + 3)."""
        answers, targets = ([_labels(text) for text in texts] for texts in (predictions, references))
        names = sorted(set().union(*targets))
        rows = []
        for said, meant in zip(answers, targets, strict=True):
            parts = [[*(name in part for name in names), len(part)] for part in (said & meant, said, meant)]
            rows.append(numpy.concatenate(parts))
        return numpy.array(rows, dtype=float)

    def from_sums(self, sums: numpy.ndarray) -> dict[str, float]:
        right, said, meant = numpy.split(sums, 3)
        micro = 2 * right[-1] / max(said[-1] + meant[-1], 1)
        seen = meant[:-1] > 0  # a resample may lack a label
        macro = (2 * right[:-1][seen] / (said + meant)[:-1][seen]).mean() if seen.any() else 0.0
        return {"micro_f1": float(micro), "macro_label_f1": float(macro)}


def _labels(text: str) -> set[str]:
    return {label.strip() for label in SEPARATOR.split(text)} - {""}
