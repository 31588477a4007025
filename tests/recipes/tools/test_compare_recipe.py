"""`recipes/compare.py` end to end: two models on the tiny task, its output, and its refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import cli_in_process, main_in_process, read_result, recipe_command, run_recipe, tiny_flags
from method_runs import OPEN, read_predictions

import pytest

pytestmark = pytest.mark.slow

MethodRun = Callable[[str], Path]
FILES = {"compare.json", "compare.md", "config.json", "differences.jsonl"}


@pytest.fixture
def flags(tiny_model: Path, domain_task: Path, tmp_path: Path) -> dict[str, Any]:
    return tiny_flags(tiny_model, domain_task, tmp_path / "run") | {"task.prompt": "{text} sentiment"}


@pytest.fixture
def go(flags: dict[str, Any]) -> Callable[..., Path]:
    """Run the recipe with more flags, and return the folder of its record."""

    def run(**changes: Any) -> Path:
        settings = flags | changes
        assert main_in_process(recipe_command("compare", "sentiment", settings)) == 0
        return Path(settings["run.output_dir"])

    return run


@pytest.fixture
def fail(flags: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the recipe with invalid settings, and return its one line."""

    def run(**changes: Any) -> str:
        code, _, errors = cli_in_process(recipe_command("compare", "sentiment", flags | changes), capfd)
        assert (code, len(errors)) == (2, 1), errors
        return errors[0].removeprefix("error: ")

    return run


def differences(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "differences.jsonl").read_text(encoding="utf-8").splitlines()]


def test_two_adapters_answer_as_they_did_in_their_runs(method_run: MethodRun, flags: dict[str, Any]) -> None:
    first, second = method_run("lora"), method_run("prefix")
    settings = flags | {"first.path": first, "second.path": second / "adapter"}
    done = run_recipe(recipe_command("compare", "sentiment", settings))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    folder = Path(flags["run.output_dir"])
    assert {p.name for p in folder.iterdir()} == FILES
    record = read_result(folder, "compare.json")
    runs = [read_result(run)["metrics"] for run in (first, second)]
    assert [side["metrics"] for side in record["contestants"]] == runs
    assert [side["name"] for side in record["contestants"]] == [str(first), str(second / "adapter")]
    assert [x["metric"] for x in record["comparisons"]] == ["accuracy", "macro_f1"]
    for comparison in record["comparisons"]:
        values = [run[comparison["metric"]]["value"] for run in runs]
        assert comparison["difference"] == pytest.approx(values[0] - values[1])
        assert comparison["low"] <= comparison["difference"] <= comparison["high"]
        assert (comparison["rows"], comparison["seeds"]) == (16, [1, 1])
    expected = [
        (a["place"], [a["prediction"].strip(), b["prediction"].strip()])
        for a, b in zip(read_predictions(first), read_predictions(second), strict=True)
        if a["prediction"] != b["prediction"]
    ]
    assert [(d["place"], d["answers"]) for d in differences(folder)] == expected
    assert sum(side["better_rows"] for side in record["contestants"]) == len(expected)
    assert record["verdict"] in done.stdout
    assert record["verdict"] in (folder / "compare.md").read_text(encoding="utf-8")
    assert f"written to {folder}" in done.stdout
    assert (record["recipe"], record["split"], record["seed"]) == ("compare", "test", 0)
    assert "versions" in record["environment"]
    again = run_recipe(recipe_command("compare", "sentiment", settings, "--resume"))
    assert (again.returncode, again.stdout) == (0, f"{folder} contains a finished run; nothing to do\n")


def test_a_whole_model_against_a_written_prompt(method_run: MethodRun, go: Callable[..., Path]) -> None:
    shots = {"second.shots": 2, "second.wording": "{text} is", "second.name": "two examples"}
    folder = go(**{"first.path": method_run("full"), "evaluation.split": "validation"} | shots)
    full, written = read_result(folder, "compare.json")["contestants"]
    assert full["model"] == str(method_run("full") / "model")
    assert (full["adapter"], written["adapter"]) == (None, None)
    assert (written["name"], written["prompt"]) == ("two examples", "{text} is")
    training = read_result(method_run("full"))["training"]
    (then,) = (e for e in training["history"] if e["step"] == training["best_step"] and "validation_loss" in e)
    assert full["test_loss"] == pytest.approx(then["validation_loss"], abs=1e-4)
    assert full["metrics"]["accuracy"]["value"] == pytest.approx(then["validation_accuracy"])
    assert all("validation.jsonl" in d["place"] for d in differences(folder))
    assert "# " in (folder / "compare.md").read_text(encoding="utf-8")


def test_answers_that_are_written(method_run: MethodRun, go: Callable[..., Path]) -> None:
    rows = {"task.metrics": "[rouge_l, exact_match]", "task.choices": "null"}
    folder = go(**OPEN | rows | {"first.path": method_run("lora"), "second.shots": 1})
    record = read_result(folder, "compare.json")
    assert [x["metric"] for x in record["comparisons"]] == ["rouge_l", "exact_match"]
    assert record["row_metric"] == "rouge_l"
    assert record["baselines"] == {}
    for difference in differences(folder):
        a, b = difference["scores"]
        assert difference["better"] == record["contestants"][0 if a > b else 1]["name"]


def test_what_is_refused_is_one_line(method_run: MethodRun, fail: Callable[..., str], tiny_model: Path) -> None:
    run = method_run("lora")
    same = "first and second are the same; change path, wording or shots of one of them"
    assert fail() == same
    assert fail(**{"first.path": run, "second.path": run / "adapter"}) == same
    assert fail(**{"first.path": "./nothing"}).startswith("first.path: no such folder: ./nothing")
    assert fail(**{"first.shtos": 2}) == 'unknown flag "--first.shtos" (did you mean "first.shots"?)'
    assert fail(**{"second.shots": "many"}) == "second.shots: expected whole number, found many"
    assert fail(**{"second.shots": 41}) == "second.shots: 41 is not between 0 and the 40 rows of train"
    several = fail(**{"second.path": method_run("multitask")})
    assert several.startswith("second.path: ")
    assert several.endswith("adapter/movies")
    assert fail(**{"second.path": tiny_model, "second.any_base": "true"}) == "second.any_base: requires an adapter"
