"""`recipes/hard_prompt.py` end to end: zero-shot and with few-shot examples, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import cli_in_process, read_result, recipe_command, run_recipe, tiny_flags

import pytest

pytestmark = pytest.mark.slow

WORDINGS = ["{text} sentiment", "the sentiment of {text} was", "{text}"]


@pytest.fixture
def flags(tiny_model: Path, tiny_task: Path, tmp_path: Path) -> dict[str, Any]:
    return tiny_flags(tiny_model, tiny_task, tmp_path / "run") | {
        "hard.wordings": json.dumps(WORDINGS),
        "hard.shots": 0,
        "hard.validation_rows": "null",
    }


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def run(flags: dict[str, Any], capture: pytest.CaptureFixture[str], **changes: Any) -> tuple[dict[str, Any], Path]:
    code, _, errors = cli_in_process(recipe_command("hard_prompt", "sentiment", flags | changes), capture)
    assert (code, errors) == (0, [])
    folder = (flags | changes)["run.output_dir"]
    return read_result(folder), folder


def test_zero_shot_in_a_process_of_its_own(flags: dict[str, Any]) -> None:
    done = run_recipe(recipe_command("hard_prompt", "sentiment", flags))
    assert done.returncode == 0, done.stderr
    folder = flags["run.output_dir"]
    assert {p.name for p in folder.iterdir()} == {"config.json", "predictions.jsonl", "README.md", "result.json"}
    result = read_result(folder)
    wordings, chosen = result["notes"]["wordings"], result["notes"]["chosen"]
    assert [w["prompt"] for w in wordings] == WORDINGS
    assert {w["metric"] for w in wordings} == {"accuracy"}
    assert wordings[chosen]["validation"] == max(w["validation"] for w in wordings)
    assert result["parameters"]["trainable"] == result["parameters"]["saved"] == 0
    assert result["training"] == {}
    assert {"accuracy", "macro_f1"} <= result["metrics"].keys()
    assert "there is no adapter" in (folder / "README.md").read_text(encoding="utf-8")
    answers = predictions(folder)
    assert len(answers) == 16
    texts = [p["prompt"] for p in answers]
    before, after = WORDINGS[chosen].split("{text}")
    assert all(t.startswith(before) and t.endswith(after) for t in texts)
    right = sum(p["prediction"] == p["target"] for p in answers)
    assert result["metrics"]["accuracy"]["value"] == right / 16


def test_shots_stand_in_front_of_every_row_and_follow_the_seed(
    flags: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        changes = {"hard.shots": 3, "hard.separator": " # ", "run.seed": seed, "run.output_dir": tmp_path / name}
        result, folder = run(flags, capfd, **changes)
        answers = predictions(folder)
        shots = {p["prompt"].rpartition(" # ")[0] for p in answers}
        assert len(shots) == 1, "the same examples for every row"
        shown.append(shots.pop().split(" # "))
        assert len(shown[-1]) == 3
        assert all(" train " in shot for shot in shown[-1]), "from train"
        assert all(shot.endswith((" positive", " negative")) for shot in shown[-1]), "solved"
        assert result["settings"]["hard"]["shots"] == 3
    assert shown[0] == shown[1]
    assert shown[0] != shown[2]
    one, two = (predictions(tmp_path / name) for name in ("a", "b"))
    assert one == two, "the same run twice gives the same answers"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hard.wordings": "[]"}, "hard.wordings: expected at least one prompt template"),
        ({"hard.shots": 41}, "hard.shots: 41 is not between 0 and the 40 rows of train"),
        ({"hard.wordings": '["{txt}"]'}, 'no column "txt"; columns are: text, label'),
        ({"hard.shots": 30, "task.max_length": 64}, "do not fit into 64; raise task.max_length, take fewer few-shot"),
        ({"training.steps": 3}, 'unknown flag "--training.steps"'),
    ],
)
def test_bad_input(
    flags: dict[str, Any], changes: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = cli_in_process(recipe_command("hard_prompt", "sentiment", flags | changes), capfd)
    assert code == 2
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
