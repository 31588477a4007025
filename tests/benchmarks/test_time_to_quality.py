"""Time to quality: the seconds of updates count, both sides stop at the goal, stock PEFT gets ten times as long."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.time_to_quality import __main__ as runner, sides
from helpers import ROOT, Build, load_base, task_config
from softprompts.config.sections import EvaluationConfig
from softprompts.errors import UserError
from softprompts.tasks.task import load_task
from softprompts.training.averaging import new_average

import pytest
import torch


class Scores:
    """A validation whose scores are given beforehand."""

    def __init__(self, *scores: float) -> None:
        self.left = list(scores)

    def __call__(self, *_: Any) -> dict[str, float]:
        return {"accuracy": self.left.pop(0)}


def watch_of(parts: Any, limit: float = 1e9, every: int = 2) -> sides.Watch:
    """Return a watch over the tiny model."""
    goal = sides.Goal("sentiment", "prompt_tuning", "accuracy", 0.75)
    return sides.Watch(goal, parts.engine, parts.data, parts.evaluation, limit)


def test_a_watch_stops_at_the_first_validation_that_has_the_score(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "EVERY", 2)
    monkeypatch.setattr(sides, "compute_metrics", Scores(0.5, 0.75))
    watch = watch_of(make())
    assert [watch.passed(seconds) for seconds in (1.0, 2.0, 4.0, 8.0)] == [False, False, False, True]
    assert watch.curve == [
        {"update": 2, "seconds": 3.0, "score": 0.5},
        {"update": 4, "seconds": 15.0, "score": 0.75},
    ]
    assert watch.reached


def test_validations_are_rarer_later(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "EVERY", 2)
    monkeypatch.setattr(sides, "GROWTH", 1.5)
    monkeypatch.setattr(sides, "compute_metrics", Scores(*[0.5] * 5))
    watch = watch_of(make())
    for _ in range(18):
        watch.passed(1.0)
    assert [entry["update"] for entry in watch.curve] == [2, 4, 6, 9, 14]


def test_a_record_of_another_goal_or_config_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    record = runner.new_record("sentiment")
    record["config"]["training"]["learning_rate"] = 9.0
    (tmp_path / "sentiment.json").write_text(json.dumps(record), encoding="utf-8")
    assert runner.main(["sentiment"]) == 2
    said = f"error: {tmp_path}/sentiment.json: was measured with another config; move it away\n"
    assert capsys.readouterr().err == said


def test_a_watch_gives_up_after_its_limit(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "EVERY", 1)
    monkeypatch.setattr(sides, "compute_metrics", Scores(0.5, 0.5))
    watch = watch_of(make(), limit=5.0)
    assert [watch.passed(3.0), watch.passed(3.0)] == [False, True]
    assert not watch.reached


def test_a_watch_scores_the_averages(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "EVERY", 1)
    monkeypatch.setattr(sides, "compute_metrics", Scores(0.5))
    seen = []
    predict = sides.predict

    def watched(*given: Any) -> Any:
        seen.append(parts.prompt())
        return predict(*given)

    monkeypatch.setattr(sides, "predict", watched)
    parts = make()
    before = parts.prompt()
    watch_of(parts).passed(1.0, {name: value + 1 for name, value in new_average(parts.model).items()})
    assert torch.equal(seen[0], before + 1)
    assert torch.equal(parts.prompt(), before)


def train_recipe(model: Path, task: Path, **training: Any) -> sides.Watch:
    goal = sides.Goal("sentiment", "prompt_tuning", "accuracy", 1.1)
    base, tokenizer = load_base(model)
    evaluation = EvaluationConfig(batch_size=16, bootstrap_resamples=20)
    config = {
        "training": {"steps": 4, "batch_size": 4, **training},
        "prompt": {"num_virtual_tokens": 3, "prompt_tuning_init": "RANDOM"},
        "model": {"name_or_path": str(model), "dtype": "float32"},
    }
    rows = load_task(task_config(task))
    watching = partial(sides.Watch, goal, evaluation=evaluation, limit=1e9)
    return sides.with_recipe(goal, config, base, tokenizer, rows, 0, watching)


def test_a_recipe_that_diverges_ends_without_a_result(
    tiny_model: Path, tiny_task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = iter([1.0, float("nan")])
    monkeypatch.setattr(sides, "update", lambda *_: [next(given)])
    found = train_recipe(tiny_model, tiny_task)
    assert (found.updates, found.reached, found.curve) == (1, False, [])
    assert "prompt_tuning, seed 0: given up: the loss or its gradient became nan at step 2" in capsys.readouterr().out
    told = runner.in_words(run("recipe", 1.0, False) | {"curve": found.curve, "updates": found.updates})
    assert told == "not reached (no validation) after 1 steps, 1 s"


@pytest.mark.parametrize("key", ["teacher", "teacher_context"])
def test_a_teacher_is_refused(tiny_model: Path, tiny_task: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"^training.{key}: time_to_quality does not support it, found there; set it"):
        train_recipe(tiny_model, tiny_task, **{key: "there"})


def run(side: str, seconds: float, reached: bool = True, seed: int = 0) -> dict[str, Any]:
    curve = [{"update": 10, "seconds": seconds, "score": 0.9 if reached else 0.4}]
    return {"side": side, "seed": seed, "reached": reached, "seconds": seconds, "updates": 10, "curve": curve}


def test_stock_peft_gets_ten_times_the_slowest_run() -> None:
    runs = [run("recipe", 20.0), run("recipe", 30.0), run("stock", 400.0)]
    assert runner.limit(runs, "recipe") == float("inf")
    assert runner.limit(runs, "stock") == 300.0


def test_the_ratio_is_that_of_medians_and_says_where_nobody_got_there() -> None:
    goal = {"metric": "accuracy", "score": 0.85}
    recipe = [run("recipe", s, seed=seed) for seed, s in enumerate((10.0, 20.0, 30.0))]
    reached = [run("stock", s, seed=seed) for seed, s in enumerate((100.0, 160.0, 900.0))]
    told = runner.summary("sentiment", {"goal": goal, "runs": recipe + reached})
    assert told.endswith("recipe 3 of 3 in 20 s; stock 3 of 3 in 160 s: 8.0 times as long")
    never = [run("stock", 300.0, reached=False, seed=seed) for seed in range(3)]
    told = runner.summary("sentiment", {"goal": goal, "runs": recipe + never})
    assert told.endswith("stock 0 of 3 in 300 s: more than 15.0 times as long")


def test_no_ratio_is_told_if_the_recipe_missed_the_score() -> None:
    recipe = [run("recipe", 10.0 + seed, reached=not seed, seed=seed) for seed in range(3)]
    stock = [run("stock", s, seed=seed) for seed, s in enumerate((100.0, 160.0, 900.0))]
    told = runner.summary("sentiment", {"goal": {"metric": "accuracy", "score": 0.85}, "runs": recipe + stock})
    assert told.endswith("no ratio, because the recipe missed the score")


def test_the_clock_of_stock_peft_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 2.0, 10.0, 13.0, 20.0])
    monkeypatch.setattr(sides.time, "perf_counter", lambda: next(moments))
    seen: list[float] = []
    watch: Any = SimpleNamespace(passed=lambda seconds: bool(seen.append(seconds)))
    model: Any = SimpleNamespace(eval=lambda: None, train=lambda: None)
    clock, control = sides.Clock(watch, model), SimpleNamespace(should_training_stop=None)
    clock.on_train_begin()
    clock.on_step_end(None, None, control)
    clock.on_step_end(None, None, control)
    assert seen == [2.0, 3.0]


def test_an_unknown_task_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["sentimnt"]) == 2
    assert capsys.readouterr().err == 'error: no goal of a task "sentimnt" (did you mean "sentiment"?)\n'
