"""The nearest valid choice, as every error message names it."""

from __future__ import annotations

import pickle
import signal

from softprompts.errors import (
    LISTED,
    LONGEST,
    NAMES,
    Interrupted,
    Key,
    UserError,
    listed,
    nearest,
    settings_named,
    short,
    warn,
)

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
    assert text.endswith(" and 2,997 more)")  # three of them fill the room of a list
    assert len(text) < LISTED + LONGEST + 50
    assert listed(range(NAMES + 2)).endswith(f"{NAMES - 1} and 2 more")
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


@pytest.mark.parametrize(
    ("error", "key", "text"),
    [
        (UserError("no such folder", key="adapter.path"), "adapter.path", "adapter.path: no such folder"),
        (UserError("adapter.path: no such folder"), "adapter.path", "adapter.path: no such folder"),
        (UserError("nothing to train"), "", "nothing to train"),
        (UserError("a: b.c: d"), "", "a: b.c: d"),
    ],
)
def test_an_error_knows_its_key(error: UserError, key: str, text: str) -> None:
    assert (error.key, str(error)) == (key, text)


def test_an_error_goes_under_the_names_of_another_section() -> None:
    error = UserError("adapter.path: adapter.path is not it; set ", Key("adapter.any_base"), " to true")
    assert str(error.under({"adapter": "first"})) == "first.path: adapter.path is not it; set first.any_base to true"
    assert str(error.under({"adapter.path": "x.y"})) == "x.y: adapter.path is not it; set adapter.any_base to true"
    assert str(error.under({"hard": "first"})) == str(error)
    assert str(error.under({"adapter": "a"}).under({"a": "b"})).startswith("b.path: ")


def test_an_error_that_another_process_sends_is_the_same() -> None:
    error = UserError("adapter.path: wrong; set ", Key("adapter.any_base"))
    sent = pickle.loads(pickle.dumps(error))
    assert (str(sent), str(sent.under({"adapter": "b"}))) == (str(error), "b.path: wrong; set b.any_base")
    stopped = pickle.loads(pickle.dumps(Interrupted("stopped", 15)))
    assert (str(stopped), stopped.signal) == ("stopped", signal.SIGTERM)


def test_settings_are_named_within_the_context_only() -> None:
    with pytest.raises(UserError, match=r"^first\.path: x$"), settings_named({"adapter": "first"}):
        raise UserError("adapter.path: x")
