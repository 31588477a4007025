"""What decisions cost, by hand."""

from __future__ import annotations

from softprompts.evaluation.predict import ABSTAINED
from softprompts.metrics.modules import policy_cost
from softprompts.metrics.scoring import compute_metrics, load_metrics

import pytest


def scores(answers: list[str], targets: list[str]) -> dict[str, float]:
    return compute_metrics(load_metrics(["policy_cost"]), answers, targets)


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        ("copyleft", "copyleft", 0.0),
        ("abstain", "copyleft", 1.0),
        ("proprietary", "copyleft", 3.0),  # stricter than it is
        ("permissive", "copyleft", 10.0),
        ("public domain", "permissive", 10.0),
        ("something else", "permissive", 10.0),
        ("", "permissive", 10.0),
        ("permissive", "another policy", 10.0),
    ],
)
def test_the_cost_of_a_decision(answer: str, target: str, expected: float) -> None:
    assert policy_cost.cost(answer, target) == expected
    assert scores([answer], [target])["cost_score"] == pytest.approx(1 - expected / 10)


def test_numbers_over_several_rows() -> None:
    answers = ["permissive", "permissive", "abstain", "proprietary"]
    targets = ["permissive", "copyleft", "copyleft", "copyleft"]
    found = scores(answers, targets)
    assert found == pytest.approx({"cost_score": 1 - 14 / 40, "coverage": 3 / 4, "decided_accuracy": 1 / 3})


def test_whoever_asks_a_person_each_time_decides_nothing_wrong() -> None:
    assert scores(["abstain"] * 3, ["permissive"] * 3) == pytest.approx(
        {"cost_score": 0.9, "coverage": 0.0, "decided_accuracy": 1.0}
    )


def test_the_word_is_the_one_that_predictions_have() -> None:
    assert policy_cost.ABSTAINED == ABSTAINED
