"""Accuracy: the share of predictions that equal their reference."""

from softprompts.metrics import base


class Accuracy(base.EqualShare):
    """`compute(predictions=[str], references=[str])` -> `{"accuracy": share in 0..1}`.

    Surrounding space does not count. `exact_match` is the same number under the name that it has for written answers.
    """

    number = "accuracy"
