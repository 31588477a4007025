"""The shipped configs have the settings that validation prefers, by the records of the study and of the use cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.grid.settings import load_benchmark
from benchmarks.study.settings import ScreenConfig, apart, base_of, load_screen
from helpers import ROOT
from softprompts.sweeps.grid import beyond

import pytest
import yaml

RECORDS = sorted((ROOT / "results" / "study").glob("*/*.json"))
# A screen with its recipe's name decides the config of its task.
DECIDING = [file for file in RECORDS if load_screen(file)["recipe"] == file.stem]

GRIDS = ROOT / "results" / "benchmarks"
# The study decides the three other tasks, whose grids have shorter runs.
USES = ("campaign", "product", "localisation", "support", "analytics", "compliance")
SWEPT = [(use, file.parent.name) for use in USES for file in sorted((GRIDS / use).glob("*/sweep.json"))]

SCREENS = {
    name: ScreenConfig(**screen)
    for part in sorted((ROOT / "configs" / "study").glob("*.yaml"))
    for name, screen in yaml.safe_load(part.read_text("utf-8"))["study"]["screens"].items()
}

each_record = pytest.mark.parametrize("file", DECIDING, ids=lambda f: f"{f.parent.name}-{f.stem}")


def shipped(file: Path) -> dict[str, Any]:
    """Return the config with the settings that a record chooses."""
    config: dict[str, Any] = yaml.safe_load(
        (ROOT / "configs" / file.parent.name / f"{file.stem}.yaml").read_text("utf-8")
    )
    return config


@each_record
def test_a_shipped_config_has_what_its_sweep_chose(file: Path) -> None:
    config = shipped(file)
    for key, value in load_screen(file)["chosen"].items():
        section, _, own = key.partition(".")
        assert config[section].get(own) == value, f"{file.stem} on {file.parent.name}: {key}"


@each_record
def test_a_shipped_config_has_what_its_sweep_set_for_all_candidates(file: Path) -> None:
    """Otherwise no candidate was the shipped config: a screen of 40 virtual tokens chose a rate for one with 100."""
    name = f"{file.parent.name}/{file.stem}"
    assert apart(SCREENS[name], base_of(name, SCREENS[name])) == {}


@each_record
def test_a_sweep_was_made_at_the_length_of_the_shipped_run(file: Path) -> None:
    record, training = load_screen(file), shipped(file)["training"]
    for key in ("steps", "batch_size", "schedule", "warmup_steps"):
        assert record["settings"]["training"][key] == training[key], key
    assert record["settings"]["evaluation"]["split"] == "validation"


@each_record
def test_no_rate_is_an_edge_of_what_was_tried(file: Path) -> None:
    record = load_screen(file)
    tried = [c["values"] for c in record["candidates"]]
    rate = "training.learning_rate"
    best = {rate: record["chosen"][rate]}
    assert beyond(best, [{rate: values[rate]} for values in tried], [rate]) == []


@pytest.mark.parametrize(("use", "method"), SWEPT)
def test_a_use_case_has_the_rates_that_its_grid_chose(use: str, method: str) -> None:
    sweep = load_benchmark(GRIDS / use).sweeps[method]
    for key, value in sweep["chosen"].items():
        section, _, own = key.partition(".")
        assert shipped(ROOT / "configs" / use / f"{method}.yaml")[section][own] == value, key
    assert beyond(sweep["chosen"], [point["values"] for point in sweep["points"]], list(sweep["chosen"])) == []


def test_there_are_records() -> None:
    assert DECIDING
    assert SWEPT
