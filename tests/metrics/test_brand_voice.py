"""The rules of two voices, one by one, and the share of predictions in the voice of their reference."""

from __future__ import annotations

import importlib

from softprompts.metrics.scoring import compute_metrics, load_metrics

import pytest

voices = importlib.import_module("softprompts.metrics.modules.brand_voice")


@pytest.mark.parametrize(
    ("text", "sentence", "label"),
    [
        ("Zsh is a shell.", None, "no statement"),
        ("Interactive Z shell", "full stop", None),
        ("Interactive Z shell.", None, "full stop"),
        ("An interactive shell", "full stop", "article"),
        ("interactive shell", "full stop", "capital"),
        ("7-zip archives", "full stop", None),
        ("(Draft) Shell", "full stop", "capital"),
        ("", "one line", "one line"),
        ("A shell.\nFor you.", "one line", "one line"),
        ("X" * 50, "full stop", None),
        ("X" * 51, "full stop", "length"),
        ("X" * 129 + ".", None, "length"),
        ("X" * 130 + ".", "length", "length"),
        ("A shell. For you.", "one sentence", "article"),
        ("Fast shell, e.g. for you.", None, "full stop"),
        ("Fast shell!", "full stop", "full stop"),
        ("Fast shell..", "full stop", "full stop"),
        ("Fast! For you", "full stop", "one sentence"),
    ],
)
def test_broken_rules(text: str, sentence: str | None, label: str | None) -> None:
    assert voices.broken_rule(text, "sentence") == sentence
    assert voices.broken_rule(text, "label") == label
    assert voices.voice_of(text) == ("sentence" if sentence is None else "label" if label is None else None)


def test_only_the_voice_of_the_reference_counts() -> None:
    metrics = load_metrics(["brand_voice"])
    answers = ["It draws.", "Painter", "It draws.", "Painter", "It draws."]
    targets = ["Zsh is a shell.", "Zsh is a shell.", "Interactive shell", "Interactive shell", "no voice"]
    assert compute_metrics(metrics, answers, targets) == {"voice_rate": 2 / 5}
