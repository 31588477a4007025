"""Accuracy: the share of predictions that equal their reference."""

from softprompts.metrics import base


class Accuracy(base.Equality):
    """`compute(predictions=[str], references=[str])` -> `{"accuracy": share in 0..1}`; without surrounding space."""

    number = right_answers = "accuracy"
