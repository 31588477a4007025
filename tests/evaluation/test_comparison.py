"""Compared models: their settings, refusals before any computation, and the comparison of their answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from helpers import load_base, make_task, task_config
from made_kappa import kappa
from method_runs import saved_by_peft
from softprompts.config.sections import EvaluationConfig, ModelConfig
from softprompts.config.tools import AdapterConfig, ContestantConfig
from softprompts.errors import UserError
from softprompts.evaluation import predict as evaluation
from softprompts.evaluation.comparison import Contestant, contestants, judge, load_contestant
from softprompts.metrics.scoring import intervals, load_metrics, row_scores
from softprompts.reports.comparison import summary
from softprompts.tasks.task import Task, load_task

import pytest
from peft import LoraConfig, MultitaskPromptTuningConfig, PeftModel, PromptTuningConfig

COMMON: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with adapters of one base model, a run that saved a whole model, and a run without one."""
    folder = tmp_path_factory.mktemp("saved")
    saved_by_peft(tiny_model, PromptTuningConfig(**COMMON), folder / "soft" / "adapter")
    saved_by_peft(tiny_model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False), folder / "lora")
    saved_by_peft(tiny_model, MultitaskPromptTuningConfig(**COMMON, num_tasks=2), folder / "tasks")
    base, tokenizer = load_base(tiny_model)
    base.save_pretrained(folder / "full" / "model")
    tokenizer.save_pretrained(folder / "full" / "model")
    for run in ("full", "written"):
        (folder / run).mkdir(exist_ok=True)
        (folder / run / "config.json").write_text(json.dumps({"recipe": run}), encoding="utf-8")
    return folder


def pair(
    model: Path, task: Path, first: dict[str, Any], second: dict[str, Any], split: Any = "test", **settings: Any
) -> tuple[Contestant, Contestant]:
    rows = load_task(task_config(task, **settings))
    configs = (ContestantConfig(**first), ContestantConfig(**second))
    return contestants(*configs, ModelConfig(str(model)), rows, EvaluationConfig(split=split), seed=0)


def test_each_kind_of_contestant(tiny_model: Path, tiny_task: Path, folder: Path) -> None:
    soft, full = pair(tiny_model, tiny_task, {"path": str(folder / "soft")}, {"path": str(folder / "full")})
    assert (soft.name, full.name) == (str(folder / "soft"), str(folder / "full"))
    assert soft.adapter == AdapterConfig(str(folder / "soft" / "adapter"))
    assert (soft.model, full.model) == (ModelConfig(str(tiny_model)), ModelConfig(str(folder / "full" / "model")))
    assert full.adapter.path is None
    base, written = pair(tiny_model, tiny_task, {}, {"wording": "Say: {text}", "shots": 2, "separator": "\n"})
    assert (base.name, written.name) == ("base model", "hard prompt")
    rows = load_task(task_config(tiny_task))
    assert base.task == rows
    for plain, row in zip(rows.splits["test"], written.task.splits["test"], strict=True):
        shots = row.prompt.split("\n")
        assert len(shots) == 3
        assert shots[2] == f"Say: {plain.record['text']}"
        assert all(shot.startswith("Say: ") and shot.endswith(("positive", "negative")) for shot in shots[:2])
        assert row.target == plain.target


def test_an_adapter_may_have_a_wording_of_its_own(tiny_model: Path, tiny_task: Path, folder: Path) -> None:
    path = str(folder / "soft")
    a, b = pair(tiny_model, tiny_task, {"path": path}, {"path": f"{path}/adapter", "wording": "{text}"})
    assert (a.name, b.name) == (path, f"{path}/adapter")
    assert a.task.splits["test"][0].prompt == f"{b.task.splits['test'][0].prompt} sentiment"


def test_names_that_are_the_same_are_told_apart(tiny_model: Path, tiny_task: Path) -> None:
    a, b = pair(tiny_model, tiny_task, {"shots": 1}, {"shots": 2})
    assert (a.name, b.name) == ("hard prompt (first)", "hard prompt (second)")
    a, b = pair(tiny_model, tiny_task, {"name": "ours"}, {"shots": 1})
    assert (a.name, b.name) == ("ours", "hard prompt")


def test_nothing_of_one_contestant_is_left_in_the_other(tiny_model: Path, tiny_task: Path, folder: Path) -> None:
    a, b = pair(tiny_model, tiny_task, {"path": str(folder / "lora")}, {"path": str(folder / "soft")})
    lora, soft = load_contestant(load_base(tiny_model)[0], a), load_contestant(load_base(tiny_model)[0], b)
    assert isinstance(lora, PeftModel)
    assert isinstance(soft, PeftModel)
    assert any("lora" in name for name, _ in lora.named_parameters())
    assert not any("lora" in name for name, _ in soft.named_parameters())


SAME = "first and second are the same; change path, wording or shots of one of them"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {}, SAME),
        ({"path": "soft"}, {"path": "soft/adapter", "name": "another"}, SAME),
        ({"wording": "{text} sentiment"}, {}, SAME),
        ({"path": "sfot"}, {}, "first.path: no such folder: "),
        ({}, {"path": "written"}, "second.path: FOLDER/written is not an adapter: it has no adapter_config.json"),
        ({}, {"any_base": True}, "second.any_base: requires an adapter"),
        ({"task_id": 1, "path": "full"}, {}, "first.task_id: requires an adapter"),
        ({"task_id": 1, "path": "soft"}, {}, "first.task_id: 1 is not between 0 and 0"),
        ({"task_id": 2, "path": "tasks"}, {}, "first.task_id: 2 is not between 0 and 1"),
        ({}, {"shots": 41}, "second.shots: 41 is not between 0 and the 40 rows of train"),
        ({}, {"wording": "{text} "}, "second.wording: ends in a space"),
        ({}, {"wording": "{txt}"}, 'no column "txt"; columns are: text, label'),
    ],
)
def test_what_is_refused(
    tiny_model: Path, tiny_task: Path, folder: Path, first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    sides = [side | {"path": str(folder / side["path"])} if "path" in side else side for side in (first, second)]
    with pytest.raises(UserError) as refusal:
        pair(tiny_model, tiny_task, *sides)
    assert message.replace("FOLDER", str(folder)) in str(refusal.value)


def test_an_adapter_for_another_base_is_refused_by_its_config_alone(
    tiny_model: Path, wider_model: Path, tiny_task: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^second\.path: \S+ is for another base model: hidden size 32, "):
        pair(wider_model, tiny_task, {}, {"path": str(folder / "soft")})
    shutil.copytree(folder / "lora", tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(settings | {"base_model_name_or_path": "someone/other"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"^second\.path: .* set second\.any_base to true$"):
        pair(tiny_model, tiny_task, {}, {"path": str(tmp_path / "lora")})
    pair(tiny_model, tiny_task, {}, {"path": str(tmp_path / "lora"), "any_base": True})


def test_examples_are_not_drawn_from_the_rows_that_are_scored(tiny_model: Path, tiny_task: Path) -> None:
    with pytest.raises(UserError, match=r"^second\.shots: few-shot examples come from train, which is also ev"):
        pair(tiny_model, tiny_task, {}, {"shots": 1}, split="train")


def test_rows_that_the_second_model_cannot_read_are_refused_before_the_first_is_scored(
    tiny_model: Path, tiny_task: Path
) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl:1: .* tokens .* raise task\.max_length, take fewer few-shot"):
        pair(tiny_model, tiny_task, {}, {"shots": 20}, max_length=40)


def test_an_encoder_that_nothing_trained_is_refused(tiny_encoder: Path, tiny_task: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="an encoder generates no text, and its classifier must be trained"):
        pair(tiny_encoder, tiny_task, {}, {"path": str(folder / "full")})


def outcome(task: Task, answers: list[str]) -> evaluation.TestOutcome:
    predictions = [
        evaluation.Prediction(row.place, row.prompt, row.target, a, None)
        for row, a in zip(task.splits["test"], answers, strict=True)
    ]
    metrics = load_metrics(task.metrics)
    values = intervals(metrics, [a.strip() for a in answers], [p.target.strip() for p in predictions], 50)
    return evaluation.TestOutcome([], predictions, 0.5, values, {}, 1.0)


def made(metric: str, rows: list[tuple[str, str]]) -> tuple[Task, tuple[Contestant, Contestant]]:
    task = replace(make_task(rows), metrics=(metric,))
    a, b = (Contestant(name, name, ModelConfig(), AdapterConfig(), task) for name in ("one", "two"))
    return task, (a, b)


def test_wins_are_the_rows_where_exactly_one_is_right() -> None:
    task, sides = made("accuracy", [("a", " x"), ("b", " x"), ("c", " y"), ("d", " y")])
    outcomes = [outcome(task, [" x", " x", " y", " x"]), outcome(task, [" x ", " y", " x", " x"])]
    contest = judge(sides, outcomes, task, EvaluationConfig(bootstrap_resamples=100))
    assert contest.names == ("one", "two")
    assert contest.row_metric == "accuracy"
    assert contest.rows == 4
    assert [asdict(d) for d in contest.differences] == [
        {
            "place": f"row {n}",
            "prompt": prompt,
            "target": target,
            "better": "one",
            "answers": answers,
            "scores": (1.0, 0.0),
        }
        for n, prompt, target, answers in ((2, "b", "x", ("x", "y")), (3, "c", "y", ("y", "x")))
    ]
    assert (len(contest.wins("one")), len(contest.wins("two"))) == (2, 0)
    (comparison,) = contest.comparisons
    assert (comparison.difference, comparison.seeds, comparison.rows) == (0.5, (1, 1), 4)
    assert contest.metrics[0]["accuracy"].value == 0.75


def test_written_answers_are_better_by_the_metric_of_the_row() -> None:
    task, sides = made("rouge_l", [("a", " the cat sat on the mat"), ("b", " a dog ran"), ("c", " it rains")])
    outcomes = [
        outcome(task, ["the cat sat", "a dog ran", "it rains"]),
        outcome(task, ["the cat sat on the", "nothing", "it rains"]),
    ]
    contest = judge(sides, outcomes, task, EvaluationConfig(bootstrap_resamples=100))
    assert [(d.place, d.better) for d in contest.differences] == [("row 1", "two"), ("row 2", "one")]
    assert contest.wins("two")[0].scores == pytest.approx((2 * 3 / 9, 2 * 5 / 11))


@pytest.mark.parametrize("alone", ["pass", "assert len(references) > 1, 'at least 2 rows'"])
def test_a_metric_without_a_score_for_a_single_row_compares_rows_by_their_exact_match(
    tmp_path: Path, alone: str
) -> None:
    """Kappa is 0/0 for one right answer and 0 for a wrong one; a correlation fails on one row."""
    task, sides = made(kappa(tmp_path, alone), [(f"{n}", f" {'xy'[n % 2]}") for n in range(40)])
    right = [row.target for row in task.splits["test"]]
    outcomes = [outcome(task, right), outcome(task, [" y", *right[1:]])]
    contest = judge(sides, outcomes, task, EvaluationConfig(bootstrap_resamples=100))
    assert contest.row_metric == "exact_match"
    assert [(d.place, d.better, d.scores) for d in contest.differences] == [("row 1", "one", (1.0, 0.0))]
    assert contest.comparisons[0].difference > 0, "the whole numbers are compared as before"
    assert "by the row's own exact_match (kappa has no score for a single row): one on 1, two on 0" in summary(contest)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "chrf", "json_object"])
def test_a_rows_score_is_the_metric_of_that_row(metric: str) -> None:
    answers, targets = ["{}", "no", '{"intent": "x"}'], ["{}", "{}", '{"intent": "x"}']
    scores = row_scores(load_metrics([metric])[metric], answers, targets)
    assert (scores[0], scores[2]) == (1.0, 1.0)
    assert scores[1] == 0.0
