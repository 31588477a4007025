"""Exact match: the share of generated predictions that equal their reference exactly."""

from softprompts.metrics import base


class ExactMatch(base.Equality):
    """`compute(predictions=[str], references=[str])` -> `{"exact_match": share in 0..1}`.

    The number of `accuracy`, with its name for generated predictions. Only surrounding space is ignored. Case,
    punctuation and inner space count (SQuAD's exact match ignores case, punctuation and articles).
    """

    number = right_answers = "exact_match"
