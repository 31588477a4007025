"""`recipes/ensemble.py` end to end: runs that vote, its output, and its errors of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import cli_in_process, read_result, recipe_command, run_recipe, tiny_flags
from method_runs import OPEN, read_predictions
from softprompts.evaluation.ensemble import vote

import pytest

pytestmark = pytest.mark.slow


def command(model: Path, task: Path, output: Path, adapters: list[Path], **flags: Any) -> list[str]:
    settings = tiny_flags(model, task, output) | {"task.prompt": "{text} sentiment"}
    settings |= {"ensemble.adapters": json.dumps([str(a) for a in adapters])}
    return recipe_command("ensemble", "sentiment", settings | flags)


def test_two_runs_vote_end_to_end(tiny_model: Path, tiny_task: Path, tmp_path: Path) -> None:
    folders = [tmp_path / f"member{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        flags = {"prompt.num_virtual_tokens": 3 + seed, "prompt.prompt_tuning_init": "RANDOM", "run.seed": seed}
        flags |= {"training.steps": 4, "training.batch_size": 8, "training.warmup_steps": 0, "training.eval_every": 4}
        flags |= {"task.prompt": "{text} sentiment"}
        done = run_recipe(
            recipe_command("prompt_tuning", "sentiment", tiny_flags(tiny_model, tiny_task, folder) | flags)
        )
        assert done.returncode == 0, done.stderr
    done = run_recipe(command(tiny_model, tiny_task, tmp_path / "run", folders))
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.json",
        "predictions.jsonl",
        "README.md",
        "result.json",
    }
    result = read_result(tmp_path / "run")
    alone = [read_result(folder) for folder in folders]
    notes = result["notes"]
    for member, one in zip(notes["members"], alone, strict=True):
        assert member["metrics"]["accuracy"] == one["metrics"]["accuracy"]
    mean = sum(one["metrics"]["accuracy"]["value"] for one in alone) / 2
    assert notes["mean"]["accuracy"]["value"] == pytest.approx(mean)
    assert result["test_loss"] == pytest.approx(sum(one["test_loss"] for one in alone) / 2, rel=1e-4)
    answers = read_predictions(tmp_path / "run")
    singles = [read_predictions(folder) for folder in folders]
    assert len(answers) == 16
    for ours, *theirs in zip(answers, *singles, strict=True):
        assert ours["place"] == theirs[0]["place"]
        assert ours["prediction"] == [" positive", " negative"][vote([t["scores"] for t in theirs])]
    right = sum(a["prediction"] == a["target"] for a in answers) / 16
    assert result["metrics"]["accuracy"]["value"] == right
    assert result["baselines"] == alone[0]["baselines"]
    trained = sum(one["parameters"]["trainable"] for one in alone)
    assert result["parameters"]["trainable"] == 0
    assert result["parameters"]["total"] == alone[0]["parameters"]["total"] - 3 * 32 + trained
    assert f"mean of 2 prompts: accuracy {mean:.4f} " in done.stdout
    assert f"their vote:\naccuracy {right:.4f} " in done.stdout
    assert f"the vote of the adapters in `{folders[0]}`, `{folders[1]}`" in (tmp_path / "run/README.md").read_text()


def test_a_bad_ensemble_ends_with_one_line_and_writes_nothing(
    voters: dict[str, Path], tiny_model: Path, tiny_task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for names, flags, message in (
        (["one"], {}, "ensemble.adapters: expected two or more to vote, found 1"),
        (["one", "one"], {}, "are the same adapter"),
        (["one", "lora"], {}, "is of type LORA"),
    ):
        adapters = [voters[name] for name in names]
        code, _, errors = cli_in_process(command(tiny_model, tiny_task, tmp_path / "run", adapters, **flags), capfd)
        assert (code, len(errors)) == (2, 1), errors
        assert message in errors[0]
        assert not (tmp_path / "run").exists()


def test_validation_may_be_scored(
    voters: dict[str, Path], tiny_model: Path, tiny_task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = {"evaluation.split": "validation"}
    adapters = [voters["prefix one"], voters["prefix two"]]
    code, _, errors = cli_in_process(command(tiny_model, tiny_task, tmp_path / "run", adapters, **flags), capfd)
    assert (code, errors) == (0, [])
    notes = read_result(tmp_path / "run")["notes"]
    for member in notes["members"]:
        assert member["validation"]["accuracy"] == member["metrics"]["accuracy"]["value"]
    assert notes["best_afterwards"]["by"].startswith("validation accuracy, ")


def test_open_targets_are_voted_for_and_the_mean_is_saved(
    voters: dict[str, Path], tiny_model: Path, tiny_task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adapters = [voters["one"], voters["three"]]
    code, _, errors = cli_in_process(command(tiny_model, tiny_task, tmp_path / "run", adapters, **OPEN), capfd)
    assert (code, errors) == (0, [])
    result = read_result(tmp_path / "run")
    assert (len(result["notes"]["members"]), set(result["notes"]["soup"]["metrics"])) == (2, set(result["metrics"]))
    assert set(result["metrics"]) == set(result["notes"]["mean"])
    assert len(read_predictions(tmp_path / "run")) == result["data"]["splits"]["test"]["rows"]
