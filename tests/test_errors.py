"""The nearest valid choice, as every error message names it."""

from __future__ import annotations

from softprompts.errors import UserError, nearest

import pytest


@pytest.mark.parametrize(
    ("name", "valid", "expected"),
    [
        ("stepz", ["steps", "seed"], ' (did you mean "steps"?)'),
        ("text", ["RANDOM", "TEXT"], ' (did you mean "TEXT"?)'),
        ("xyz", ["b", "a"], " (valid: a, b)"),
        ("xyz", [], ""),
        ("1", [12, 10], ' (did you mean "12"?)'),
    ],
)
def test_nearest(name: str, valid: list[str], expected: str) -> None:
    assert nearest(name, valid) == expected


def test_prefix_goes_in_front_of_a_suggestion_only() -> None:
    assert nearest("stepz", ["steps"], "training.") == ' (did you mean "training.steps"?)'
    assert nearest("xyz", ["steps"], "training.") == " (valid: steps)"


def test_user_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)
