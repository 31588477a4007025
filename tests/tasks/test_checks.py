"""Warnings before training: one line for each problem that makes scores meaningless, and none for sound data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import Parts, load_base, run_training, task_config
from made_tasks import rows_of, write
from softprompts.config.methods import HardPromptConfig
from softprompts.config.sections import EvaluationConfig, TaskConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.evaluation.hard_prompts import choose_wording
from softprompts.models.loading import InputSpec
from softprompts.tasks.checks import RARE, check_labels, first_rows_warning, warn_of_scored_rows
from softprompts.tasks.task import Task, load_task

import pytest
from accelerate import Accelerator

CHOICES = [" bad", " good"]


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


def sound(split: str, count: int, **more: Any) -> list[dict[str, Any]]:
    return [row | {"text": f"{split} {row['text']}"} for row in rows_of(count, **more)]


def loaded(folder: Path, rows: dict[str, list[dict[str, Any]]] | None = None, **settings: Any) -> Task:
    given = {"train": sound("train", 20), "validation": sound("validation", 6), "test": sound("test", 6)} | (rows or {})
    files: dict[str, Any] = {split: write(folder / f"{split}.jsonl", r) for split, r in given.items()}
    return load_task(TaskConfig(**({"prompt": "{text}:", "target": " {label}", "choices": CHOICES} | files | settings)))


@pytest.mark.parametrize("settings", [{}, {"choices": None}, {"choices": "from_train"}, {"max_rows": {"test": 3}}])
def test_sound_data_is_not_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: Any) -> None:
    loaded(tmp_path, **settings)
    assert warnings(capsys) == []


@pytest.mark.parametrize(
    ("split", "what"),
    [
        ("train", "the model learns only this target"),
        ("validation", "always predicting"),
        ("test", "always predicting"),
    ],
)
@pytest.mark.parametrize("choices", [CHOICES, None])
def test_a15_a_split_with_one_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str, what: str, choices: Any
) -> None:
    loaded(tmp_path, {split: [row | {"label": "good"} for row in sound(split, 6)]}, choices=choices)
    (line,) = warnings(capsys)
    assert line.startswith(f'task.{split}: all 6 rows have the target " good": ')
    assert what in line


def test_a15_a_single_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {split: [row | {"label": "good"} for row in sound(split, 6)] for split in ("train", "validation", "test")}
    loaded(tmp_path, rows, choices="from_train")
    assert warnings(capsys)[0] == 'task.choices: " good" is the only choice, so every prediction is right'


def test_a15_rare_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rare = [{"text": f"rare {i}", "label": "odd"} for i in range(RARE - 1)]
    common = [{"text": f"more {i}", "label": "fair"} for i in range(RARE)]
    loaded(tmp_path, {"train": [*sound("train", 20), *rare, *common]}, choices=[*CHOICES, " odd", " fair", " none"])
    named = f"none (0), odd ({RARE - 1})"
    assert warnings(capsys) == [f"task.train: 2 of 5 choices have fewer than {RARE} rows, e.g. {named}"]


def test_a15_rows_of_train_in_validation_or_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the input of the model counts, not the label."""
    known = [{"text": "train text 1", "label": "bad"}, {"text": "train text 2", "label": "bad"}]
    loaded(tmp_path, {"test": [*sound("test", 6), *known]})
    assert warnings(capsys) == [f"task.test: 2 of 8 prompts also occur in train, e.g. {tmp_path / 'test.jsonl'}:7"]


def test_a14_empty_cells_that_the_prompt_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.csv"
    lines = [f"{'' if i == 3 else f'title {i}'},body {i},,{('bad', 'good')[i % 2]}" for i in range(20)]
    path.write_text("\n".join(["title,text,notes,label", *lines]), encoding="utf-8")
    loaded(tmp_path, train=str(path), prompt="{text}:")
    assert warnings(capsys) == [], "a column that nothing uses may be empty"
    titled = {split: sound(split, 6, title="t") for split in ("validation", "test")}
    loaded(tmp_path, titled, train=str(path), prompt="{title}\n{text}:")
    assert warnings(capsys) == [f'task.train: "title" is empty in 1 of 20 rows, e.g. {path}:5']


def by_label(split: str, labels: str) -> list[dict[str, Any]]:
    return [{"text": f"{split} {i}", "label": {"b": "bad", "g": "good"}[c]} for i, c in enumerate(labels)]


def test_a15_max_rows_of_a_sorted_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded(tmp_path, {"test": by_label("test", "bbbbbbgggggg")}, max_rows={"test": 5})
    one, sorted_ = warnings(capsys)
    assert one.startswith('task.test: all 5 rows have the target " bad"')
    assert sorted_ == (
        "task.max_rows: the first 5 rows of test have 1 of its 2 targets: the file seems sorted; shuffle it"
    )


@pytest.mark.parametrize(
    ("taken", "whole", "warned"),
    [
        ("aaaa", "aaaabbbb", True),
        ("a", "ab", False),  # one row is too few
        ("aaaaabbbbb", "aaaaabbbbbccccc", True),
        ("abababab", "abababababc", False),  # lacks a target, but is mixed
        ("aabb", "aabbcc", False),  # short runs come by chance
        ("aaaabbbb", "aaaabbbb", False),  # nothing is left out
        ("abcd", "abcdefgh", False),  # open answers, all different
    ],
)
def test_a15_first_rows_that_are_no_sample(taken: str, whole: str, warned: bool) -> None:
    lines = list(first_rows_warning("key", "validation", list(taken), list(whole)))
    assert [line.startswith("key: the first ") for line in lines] == [True] * warned


def in_order_of_targets(data: EncodedTask) -> EncodedTask:
    return replace(data, validation=sorted(data.validation, key=lambda example: example.row.target))


def test_a15_eval_rows_of_a_sorted_file_are_warned_of_before_training(
    make: Callable[..., Parts], capsys: pytest.CaptureFixture[str]
) -> None:
    parts = make("sorted", steps=1, eval_rows=4)
    parts.data = in_order_of_targets(parts.data)
    run_training(parts)
    expected = "training.eval_rows: the first 4 rows of validation have 1 of its 2 targets: the file seems sorted"
    assert [line.partition(";")[0] for line in warnings(capsys)].count(expected) == 1
    run_training(make("mixed", steps=1, eval_rows=4))
    assert not [line for line in warnings(capsys) if "eval_rows" in line]


def test_a15_rows_that_choose_a_wording(tiny_model: Path, tiny_task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tokenizer = load_base(tiny_model)
    data = encode(load_task(task_config(tiny_task)), tokenizer, InputSpec(room=200))
    data = in_order_of_targets(data)
    config = HardPromptConfig(["{text}"], validation_rows=4)
    choose_wording(Engine(base, tokenizer), [data], config, EvaluationConfig(), Accelerator(cpu=True))
    assert [line.partition(":")[0] for line in warnings(capsys)] == ["hard.validation_rows"]


def test_all_rows_are_never_warned_of_as_the_first_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Scored:
        def __init__(self, row: Any) -> None:
            self.row = row

    task = loaded(tmp_path, {"validation": by_label("validation", "bbbbgggg")})
    warn_of_scored_rows("key", [Scored(row) for row in task.splits["validation"]], None)
    assert warnings(capsys) == []


@pytest.mark.parametrize(
    ("distinct", "rows", "refused"), [(20, 20, False), (21, 21, True), (50, 100, False), (51, 100, True)]
)
def test_c6_targets_that_are_no_labels(distinct: int, rows: int, refused: bool) -> None:
    labels = [f"label {i % distinct}" for i in range(rows)]
    if not refused:
        check_labels(Counter(labels))
        return
    with pytest.raises(
        UserError, match=rf"^task\.choices: from_train finds {distinct} different targets in {rows} rows"
    ):
        check_labels(Counter(labels))


@pytest.mark.parametrize("task", ["sentiment", "docstrings"])
def test_shipped_tasks_are_sound(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {
        "sentiment": {"prompt": "{text}:", "target": " {label}", "choices": "from_train"},
        "docstrings": {"prompt": "{signature}\n{description}", "target": " {summary}", "metrics": ["rouge_l", "chrf"]},
    }[task]
    load_task(TaskConfig(dataset=f"embedded:{task}", **settings))
    assert warnings(capsys) == []
