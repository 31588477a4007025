"""F1 of predictions that are sets of labels: over all decisions, and as the mean over the labels."""

import re

from softprompts.metrics import base

import numpy

SEPARATOR = re.compile(r"[,;](?:\s+|$)")


class LabelF1(base.RowMetric):
    """`compute(predictions=[str], references=[str])` -> `{"micro_f1": in 0..1, "macro_label_f1": in 0..1}`.

    A text is a set of labels, separated by ", " or "; ". Order and repetition do not count, but case does. The empty
    set is a label such as "none", and counts as one. LexGLUE scores UNFAIR-ToS in this way (Chalkidis et al. 2022: its
    scripts add a column for "no label" to references and predictions). `micro_f1` is computed over all labels of all
    rows; a label that no reference has is a false positive. `macro_label_f1` is the unweighted mean of the labels' F1,
    for the labels in the references of these rows.
    """

    def row_statistics(self, predictions: list[str], references: list[str]) -> numpy.ndarray:
        """Return matches, predictions and references of each label, and their totals, (rows, 3 x labels + 3)."""
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
