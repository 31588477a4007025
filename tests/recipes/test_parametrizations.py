"""Parametrised soft prompts end to end: a recipe leaves a stock adapter that gives the recorded scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import TEXT, cli_in_process, losses, main_in_process, read_result
from method_runs import CHOICES, LENGTH, TOKENS, read_predictions, short_command, stock_model, stock_scores

import pytest
from transformers import AutoTokenizer

pytestmark = pytest.mark.slow

PREFIX = {"prefix.num_virtual_tokens": TOKENS, "prefix.init_text": TEXT}
RUNS: dict[str, tuple[str, dict[str, Any], int]] = {
    "residual MLP": ("prompt_tuning", LENGTH | {"prompt.parametrization": "residual_mlp", "prompt.bottleneck": 8}, 32),
    "low rank": ("prompt_tuning", LENGTH | {"prompt.parametrization": "low_rank", "prompt.rank": 3}, 32),
    "superposition": ("prompt_tuning", LENGTH | {"prompt.parametrization": "superposition"}, 32),
    "scales": ("prefix_tuning", PREFIX | {"prefix.parametrization": "scales"}, 64),
    "rates": ("prefix_tuning", PREFIX | {"prefix.key_rate": 0, "prefix.layer_rates": "[0.5, 1]"}, 64),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_stock_peft_gives_the_recorded_scores(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, name: str, engine: str
) -> None:
    recipe, flags, width = RUNS[name]
    command = short_command(recipe, tiny_model, tiny_task, tmp_path / "run", **flags, **{"model.engine": engine})
    assert main_in_process(command) == 0
    result = read_result(tmp_path / "run")
    assert result["parameters"]["saved"] == TOKENS * width
    assert result["parameters"]["trainable"] != TOKENS * width
    curve = losses(result["training"]["history"])
    assert curve[-1] < curve[0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for record in read_predictions(tmp_path / "run")[:6]:
        scores = stock_scores(stock_model(tmp_path / "run", tiny_model, record), tokenizer, record["prompt"])
        assert scores == pytest.approx(record["scores"], abs=1e-3)
        assert record["prediction"] == CHOICES[scores[1] > scores[0]]


def test_a_sweep_may_vary_them(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # The default width of a residual MLP is too large for the tiny model.
    grid = "{prompt.parametrization: [direct, low_rank, superposition], training.learning_rate: [0.02, 0.05]}"
    command = short_command("sweep", tiny_model, tiny_task, tmp_path / "run", **LENGTH, **{"sweep.grid": grid})
    code, _, errors = cli_in_process(command, capfd)
    assert (code, errors) == (0, [])
    result = read_result(tmp_path / "run")
    assert len({c["validations"][0]["validation_loss"] for c in result["notes"]["candidates"]}) == 1
    assert len({c["validations"][-1]["validation_loss"] for c in result["notes"]["candidates"]}) == 6
    assert result["parameters"]["saved"] == TOKENS * 32


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        ("prompt_tuning", {"prompt.parametrization": "lowrank"}, "prompt.parametrization: expected direct | residual_"),
        (
            "prompt_tuning",
            {"prompt.rank": 2},
            "prompt.rank: applies only to parametrization: low_rank; set that, or rank to null",
        ),
        ("prefix_tuning", PREFIX | {"prefix.key_rate": -1}, "prefix.key_rate: expected 0 or more, found -1.0"),
        (
            "prefix_tuning",
            PREFIX | {"prefix.layer_rates": "[1, 1, 1]"},
            "prefix.layer_rates: 3 rates do not divide 2 lay",
        ),
    ],
)
def test_settings_without_sense_end_with_one_line(
    tiny_model: Path,
    tiny_task: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    recipe: str,
    flags: dict[str, Any],
    message: str,
) -> None:
    code, _, errors = cli_in_process(short_command(recipe, tiny_model, tiny_task, tmp_path / "run", **flags), capfd)
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].startswith(f"error: {message}")
