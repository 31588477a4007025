"""The shipped configs have the settings that validation prefers, by the records of the study and of the use cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import load_benchmark
from benchmarks.study.settings import (
    RENAMED,
    ScreenConfig,
    apart,
    base_of,
    decided,
    in_sweep,
    load_screen,
    load_screens,
    value_of,
)
from helpers import ROOT
from softprompts.methods.catalog import METHODS
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
    name, other = f"{file.parent.name}/{file.stem}", RENAMED.get(file.stem, {})
    base = base_of(name, SCREENS[name])
    for key, value in decided(load_screens(file.parent), file.stem).items():
        assert value_of(base, in_sweep(key, other)) == value, f"{name}: {key}"


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
    best = {rate: decided(load_screens(file.parent), file.stem)[rate]}
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


# Trained configs whose values no sweep has chosen, each with the reason.
SHORT = "the grid of the use case has no P-tuning"
UNSWEPT = {
    **{f"{use}/p_tuning": SHORT for use in USES},
    **{f"{task}/multitask_prompt_tuning": "no sweep has several tasks" for task in ("sentiment", "home_commands")},
    "docstrings/multitask_prompt_tuning": "no sweep has several tasks",
    "home_commands/cartridge": "its text and its teacher are its own",
    "campaign/ravenports_prefix_tuning": "the second voice has the settings of the first",
    "campaign/ravenports_prompt_tuning": "the second voice has the settings of the first",
    "demo/prompt_tuning": "it takes five minutes",
    "own_data/prompt_tuning": "an example for one's own data",
    "sentiment/sweep": "it is a sweep",
}
# Grids that sweep further configs, by the config.
FURTHER = {
    "sentiment/context_tuning": "few_sentiment",
    "sentiment/cpt": "few_sentiment",
    "home_commands/context_tuning": "few_home_commands",
    "compliance/passage_prefix_tuning": "passage",
}


def test_every_shipped_value_has_its_record_or_a_reason() -> None:
    """A config that nobody sweeps must say so here, and one that is swept must not."""
    recorded = {f"{file.parent.name}/{file.stem}" for file in DECIDING} | {f"{use}/{method}" for use, method in SWEPT}
    found = {}
    for file in sorted((ROOT / "configs").glob("*/*.yaml")):
        sections = next(yaml.safe_load_all(file.read_text("utf-8")))
        if "training" in sections and "run" in sections and file.parent.name != "hub":  # no rows of a Hub dataset here
            name = f"{file.parent.name}/{file.stem}"
            ways = [name in recorded, name in set(SCREENS) - recorded, name in UNSWEPT, name in FURTHER]
            found[name] = sum(ways)
    assert {name: count for name, count in found.items() if count != 1} == {}
    assert (UNSWEPT.keys() | FURTHER.keys()) - found.keys() == set()
    grids = {file.stem for file in (ROOT / "configs" / "benchmarks").glob("*.yaml")}
    assert set(FURTHER.values()) <= grids


@pytest.mark.parametrize(("name", "grid"), FURTHER.items())
def test_a_config_has_the_rate_that_a_further_grid_chose(name: str, grid: str) -> None:
    config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text("utf-8"))
    recipe = next(m for m in METHODS if name.endswith(m))
    made = yaml.safe_load((ROOT / "configs" / "benchmarks" / f"{grid}.yaml").read_text("utf-8"))["grid"]
    methods = [method for method, one in made["methods"].items() if one["recipe"] == recipe and one.get("sweep")]
    assert methods, f"{grid} sweeps no {recipe}"
    files = [GRIDS / grid / method / "sweep.json" for method in methods]
    sweeps = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    chosen = {sweep["chosen"]["training.learning_rate"] for sweep in sweeps}
    # A grid may have a sweep for each number of examples.
    assert not chosen or config["training"]["learning_rate"] in chosen
