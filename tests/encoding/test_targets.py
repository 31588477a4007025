"""Targets that no generated answer can equal give a warning before training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from helpers import build, load_base, make_task, run_training
from softprompts.encoding.targets import warn_of_cut_targets
from softprompts.encoding.tokenization import encode
from softprompts.evaluation.predict import evaluate_test
from softprompts.tasks.checks import look_alikes

import pytest

ROWS = [("the film", " good\nfilm"), ("the plot", " bad")]


@pytest.mark.parametrize(
    ("most", "stop", "said"),
    [
        (100, [], None),
        (100, ["###"], None),
        (
            100,
            ["\n"],
            r"evaluation\.stop cuts off the end of 3 of 6 targets.*row 1: 'good.*film' comes back as 'good'",
        ),
        (1, [], r"evaluation\.max_new_tokens: 1 tokens are too few for \d of 6 targets.*row 1: "),
    ],
)
def test_a12_targets_that_the_settings_cut_off(
    most: int, stop: Sequence[str], said: str | None, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_base(tiny_model)[1]
    data = encode(make_task(ROWS), tokenizer)
    warn_of_cut_targets(data, tokenizer, most, stop)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (said is not None)
    assert all(re.match(f"warning: {said}", line) for line in lines)


def test_a12_the_longest_target_just_fits(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_base(tiny_model)[1]
    data = encode(make_task(ROWS), tokenizer)
    longest = max(len(e.document.target_ids) for e in data.train) - 1  # without the token that ends it
    warn_of_cut_targets(data, tokenizer, longest, [])
    assert capsys.readouterr().err == ""
    warn_of_cut_targets(data, tokenizer, longest - 1, [])
    assert "evaluation.max_new_tokens" in capsys.readouterr().err


def test_a12_choices_are_not_written(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_base(tiny_model)[1]
    data = encode(make_task([("the film", " good film"), ("the plot", " bad")], (" good film", " bad")), tokenizer)
    warn_of_cut_targets(data, tokenizer, 1, ["film"])
    assert capsys.readouterr().err == ""


def test_a12_it_is_said_before_training(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = build(tiny_model, tiny_task, tmp_path / "run", steps=1)
    parts.evaluation.stop = ["tive"]
    parts.data = encode(replace(parts.data.task, choices=None), parts.engine.tokenizer)
    run_training(parts)
    evaluate_test(parts.engine, parts.data, parts.evaluation, parts.run.accelerator)
    said = "warning: evaluation.stop cuts off the end of 72 of 72 targets"
    assert capsys.readouterr().err.count(said) == 1, "before training, and not once more at the test"
    parts.model.requires_grad_(False)  # as an adapter that is loaded to be scored
    evaluate_test(parts.engine, parts.data, parts.evaluation, parts.run.accelerator)
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize(
    ("labels", "pairs"),
    [
        (["Yes", "no", "yes"], ["'Yes' and 'yes'"]),
        ([" 1", " 1.0", " 2"], ["' 1' and ' 1.0'"]),
        (["True", "false", "true"], ["'True' and 'true'"]),
        (["1", "10", "one"], []),
    ],
)
def test_a17_labels_that_look_alike_are_said(labels: list[str], pairs: list[str]) -> None:
    lines = list(look_alikes(labels))
    assert lines == [f"task.choices: from_train treats {pair} as two labels" for pair in pairs]
