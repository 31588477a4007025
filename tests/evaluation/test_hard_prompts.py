"""Hard prompts: examples drawn by seed, templates that survive any data, a choice made on validation only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import load_base, task_config
from softprompts.config.methods import HardPromptConfig
from softprompts.config.sections import EvaluationConfig
from softprompts.encoding.documents import EncodedTask, Example
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.evaluation import hard_prompts as hard
from softprompts.evaluation.hard_prompts import choose_wording, draw_shots, written_tasks
from softprompts.evaluation.predict import Outcome, Prediction, predict
from softprompts.tasks.task import Task, load_task

import pytest
from accelerate import Accelerator

WORDINGS = ["{text} sentiment", "a {text} film\nsentiment", "{text}"]
EVALUATION = EvaluationConfig(batch_size=16)


@pytest.fixture
def task(tiny_task: Path) -> Task:
    return load_task(task_config(tiny_task))


def test_shots_are_drawn_from_train_by_the_seed(task: Task) -> None:
    shots = draw_shots(task, 8, 0)
    assert draw_shots(task, 8, 0) == shots
    assert draw_shots(task, 8, 1) != shots
    assert len({row.place for row in shots}) == 8, "without replacement"
    assert all(row in task.splits["train"] for row in shots)
    assert draw_shots(task, 0, 0) == []
    assert len({row.place for row in draw_shots(task, 40, 0)}) == 40


@pytest.mark.parametrize("shots", [-1, 41])
def test_more_shots_than_rows_are_refused(task: Task, shots: int) -> None:
    with pytest.raises(UserError, match=rf"^hard.shots: {shots} is not between 0 and the 40 rows of train$"):
        draw_shots(task, shots, 0)


def test_scored_rows_are_no_examples(task: Task) -> None:
    message = r"^hard.shots: few-shot examples come from train, which is also evaluation.split: they would leak targets"
    with pytest.raises(UserError, match=message):
        written_tasks(task, HardPromptConfig(wordings=WORDINGS, shots=2), 0, "train")
    assert len(written_tasks(task, HardPromptConfig(wordings=WORDINGS, shots=0), 0, "train")) == len(WORDINGS)


def test_every_wording_gets_the_same_shots_in_front_of_every_row(task: Task) -> None:
    config = HardPromptConfig(wordings=WORDINGS, shots=2, separator="\n--\n")
    shots = draw_shots(task, 2, 5)
    for wording, written in zip(WORDINGS, written_tasks(task, config, 5), strict=True):
        solved = "".join(wording.format(**s.record) + s.target + "\n--\n" for s in shots)
        for split in ("train", "validation", "test"):
            for row, before in zip(written.splits[split], task.splits[split], strict=True):
                assert row.prompt == solved + wording.format(**before.record)
                assert (row.target, row.place) == (before.target, before.place)
        assert written.choices == task.choices
        assert written.config.prompt == wording


@pytest.mark.parametrize("text", ["{label}", "{}", "{0.__class__}", "{{x}}", "}{", "a {text!r:>9} b"])
def test_braces_in_data_are_not_templates(task: Task, text: str) -> None:
    row = task.splits["train"][0]
    odd = replace(row, record=row.record | {"text": text})
    task = replace(task, splits=task.splits | {"train": [odd] * 3, "test": [odd]})
    (written,) = written_tasks(task, HardPromptConfig(wordings=["say {text}:"], shots=1), 0)
    assert written.splits["test"][0].prompt == f"say {text}:{row.target}\n\nsay {text}:"


@pytest.mark.parametrize(
    ("wordings", "message"),
    [
        ([], r"hard.wordings: expected at least one prompt template"),
        (["{txt}"], r'no column "txt"; columns are: text, label'),
        (["{text} "], r"ends in a space"),
        (["{text"], r"hard.wordings: .*literal braces"),
    ],
)
def test_wordings_without_sense_are_refused(task: Task, wordings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        written_tasks(task, HardPromptConfig(wordings=wordings), 0)


@pytest.fixture
def candidates(task: Task, tiny_model: Path) -> list[EncodedTask]:
    tokenizer = load_base(tiny_model)[1]
    return [encode(t, tokenizer) for t in written_tasks(task, HardPromptConfig(wordings=WORDINGS), 0)]


def test_the_choice_sees_validation_rows_only(
    candidates: list[EncodedTask], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def watch(engine: Engine, examples: Sequence[Example], *more: Any) -> Outcome:
        seen.extend(e.row.place for e in examples)
        return predict(engine, examples, *more)

    monkeypatch.setattr(hard, "predict", watch)
    config = HardPromptConfig(wordings=WORDINGS, validation_rows=10)
    engine = Engine(*load_base(tiny_model), packed=True)
    best, wordings = choose_wording(engine, candidates, config, EVALUATION, Accelerator(cpu=True))
    expected = [e.row.place for e in candidates[0].validation[:10]]
    assert seen == expected * 3
    assert wordings[best].validation == max(w.validation for w in wordings)
    assert [w.prompt for w in wordings] == WORDINGS
    assert {w.metric for w in wordings} == {"accuracy"}
    for wording, data in zip(wordings, candidates, strict=True):
        lengths = [len(e.document.prompt_ids) for e in data.validation[:10]]
        assert wording.prompt_tokens == pytest.approx(sum(lengths) / 10)


@pytest.mark.parametrize(
    ("right", "losses", "expected"),
    [
        ([2, 9, 5], [0.1, 0.9, 0.2], 1),
        ([7, 7, 3], [0.5, 0.5, 0.5], 0),
        ([0, 0, 0], [3.0, 2.0, 2.5], 1),
        ([7, 7, 3], [0.9, 0.8, 0.1], 1),
    ],
)
def test_the_best_on_validation_is_chosen_and_of_equals_the_likeliest(
    candidates: list[EncodedTask],
    right: list[int],
    losses: list[float],
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = iter(zip(right, losses, strict=True))

    def answers(engine: Any, examples: Sequence[Example], *_: Any) -> Outcome:
        correct, loss = next(calls)
        texts = [e.row.target if i < correct else "wrong" for i, e in enumerate(examples)]
        return Outcome([Prediction("", "", e.row.target, t, None) for e, t in zip(examples, texts, strict=True)], loss)

    monkeypatch.setattr(hard, "predict", answers)
    config = HardPromptConfig(wordings=WORDINGS)
    best, wordings = choose_wording(None, candidates, config, EVALUATION, Accelerator(cpu=True))
    assert best == expected
    assert [w.validation for w in wordings] == pytest.approx([r / 16 for r in right])
    assert [w.loss for w in wordings] == losses
