"""Exact match: the share of written answers that equal their reference, letter by letter."""

from softprompts.metrics import base


class ExactMatch(base.EqualShare):
    """`compute(predictions=[str], references=[str])` -> `{"exact_match": share in 0..1}`.

    The number of `accuracy` under the name that it has for written answers. Surrounding space does not count, all
    else does: case, punctuation, space within (SQuAD's exact match takes case, punctuation and articles out; this does
    not).
    """

    number = "exact_match"
