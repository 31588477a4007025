"""The nearest valid choice, as every error message names it."""

from __future__ import annotations

from softprompts.errors import LONGEST, NAMES, UserError, listed, nearest, short, warn

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


def test_c6_lists_and_names_stay_short() -> None:
    labels = [f"label {'x' * 500} {i}" for i in range(3_000)]
    text = nearest("far away from all of them", labels)
    assert text.startswith(" (valid: label xx")
    assert text.endswith(f" and {3_000 - NAMES:,} more)")
    assert len(text) < (LONGEST + 2) * NAMES + 50
    assert len(nearest(labels[0], labels)) < LONGEST + 30


def test_what_nobody_would_see_is_shown() -> None:
    assert short("a\nb\t\u200b\ud83d") == "a\\nb\\t\\u200b\\ud83d"
    assert listed(["text", " label", "", "b "]) == 'text, " label", "", "b "'


@pytest.mark.parametrize(("rank", "said"), [(None, "warning: text\n"), ("0", "warning: text\n"), ("1", "")])
def test_a_warning_is_said_by_one_process(
    rank: str | None, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    warn("text")
    assert capsys.readouterr().err == said


def test_user_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)
