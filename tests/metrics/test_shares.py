"""Accuracy, macro F1 and exact match, by hand."""

from __future__ import annotations

from softprompts.metrics.names import OWN
from softprompts.metrics.scoring import compute_metrics, load_metrics, shares_of_right_answers

import pytest


@pytest.mark.parametrize(
    ("pairs", "accuracy", "macro_f1"),
    [
        # a: precision 2/3, recall 1 -> 0.8; b: precision 1, recall 1/2 -> 2/3.
        ([("a", "a"), ("a", "a"), ("b", "a"), ("b", "b")], 3 / 4, (0.8 + 2 / 3) / 2),
        # c is never predicted and counts 0.
        ([("a", "a"), ("b", "b"), ("c", "a")], 2 / 3, (2 / 3 + 1 + 0) / 3),
        # d is predicted and never right: it counts 0 as well.
        ([("a", "a"), ("a", "d")], 1 / 2, (2 / 3 + 0) / 2),
        ([("a", "b"), ("b", "a")], 0.0, 0.0),
        ([("A", "a")], 0.0, 0.0),
    ],
)
def test_accuracy_and_macro_f1(pairs: list[tuple[str, str]], accuracy: float, macro_f1: float) -> None:
    targets, answers = (list(texts) for texts in zip(*pairs, strict=True))
    values = compute_metrics(load_metrics(["accuracy", "macro_f1"]), answers, targets)
    assert values == {"accuracy": pytest.approx(accuracy), "macro_f1": pytest.approx(macro_f1)}


def test_exact_match() -> None:
    answers = ["a b", " a b\n", "A b", "a  b", "a b.", ""]
    values = compute_metrics(load_metrics(["exact_match"]), answers, ["a b"] * 6)
    assert values == {"exact_match": 2 / 6}


def test_metrics_state_which_number_is_the_share_of_right_answers() -> None:
    """Overlap, costs, style and F1 are no such share, although they are numbers from 0 to 1."""
    texts = ['{"queue": "1"}', "2"]
    for name in OWN:
        metrics = load_metrics([name])
        stated = shares_of_right_answers([name])
        assert stated <= set(compute_metrics(metrics, texts, texts)), name
    assert shares_of_right_answers(OWN) == {"accuracy", "exact_match", "final_number"}
    assert shares_of_right_answers(["chrf", "policy_cost", "macro_f1", "no/such/metric.py"]) == set()
    assert shares_of_right_answers(["json_object"]) == shares_of_right_answers(["support_ticket"]) == {"exact_match"}
