"""The study: each screen's sweep is the shipped config with a grid, and its record has the recipe's own keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import in_words
from benchmarks.study import __main__ as runner, settings as study_settings
from benchmarks.study.settings import (
    ScreenConfig,
    StudyConfig,
    base_of,
    check,
    check_order,
    check_record,
    config_of,
    decided,
    load_screen,
    record_of,
    winner,
)
from helpers import ROOT, load_recipe
from softprompts.config.cli import parse
from softprompts.errors import UserError
from softprompts.sweeps.grid import SEED, grid_of

import pytest
import yaml

FILES = sorted((ROOT / "configs" / "study").glob("*.yaml"))
# A sweep of two rates on a tiny model, whose record is fed to `record_of`.
GRID: dict[str, list[Any]] = {"prompt.num_virtual_tokens": [4, 8], "training.learning_rate": [0.01, 0.1]}


def shipped_study(name: str) -> StudyConfig:
    """Return a part of the study that is shipped."""
    given = yaml.safe_load((ROOT / "configs" / "study" / f"{name}.yaml").read_text(encoding="utf-8"))["study"]
    screens = {name: ScreenConfig(**screen) for name, screen in given.pop("screens").items()}
    return StudyConfig(screens, **given)


def study_of(recipe: str, **settings: Any) -> StudyConfig:
    return StudyConfig({"sentiment/mine": ScreenConfig(recipe, GRID, settings)}, {"model.dtype": "float32"}, seed=7)


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_sweep_is_the_shipped_config_with_a_grid() -> None:
    made = config_of(study_of("prompt_tuning", **{"training.steps": 9}), "sentiment/mine", Path("there"))
    before = yaml.safe_load(Path("configs/sentiment/prompt_tuning.yaml").read_text(encoding="utf-8"))
    assert made["task"] == before["task"]
    assert made["prompt"] == before["prompt"]
    assert made["training"] == before["training"] | {"steps": 9}
    assert made["model"] == before["model"] | {"dtype": "float32"}
    assert made["evaluation"] == before["evaluation"] | {"split": "validation"}
    assert made["run"] == before["run"] | {"output_dir": "there", "seed": 7, "trackers": []}
    assert made["sweep"] == {
        "method": "prompt_tuning",
        "grid": GRID,
        "reduction_factor": 3,
        "extensions": 4,
        "first_rung": None,
    }


def test_the_section_of_p_tuning_is_the_sweeps_encoder_and_back() -> None:
    study = study_of("p_tuning", **{"prompt.encoder_hidden_size": 32})
    made = config_of(study, "sentiment/mine", Path("there"))
    assert "prompt" not in made
    assert made["encoder"]["encoder_hidden_size"] == 32
    assert list(made["sweep"]["grid"]) == ["encoder.num_virtual_tokens", "training.learning_rate"]
    candidate = candidate_of({"encoder.num_virtual_tokens": 4, "training.learning_rate": 0.1}, -0.5)
    record = record_of(
        result_of([candidate]),
        study.screens["sentiment/mine"],
        base_of("sentiment/mine", study.screens["sentiment/mine"]),
    )
    assert record["apart"] == {"prompt.encoder_hidden_size": 576}
    assert record["shipped"] == {"prompt.num_virtual_tokens": 20, "training.learning_rate": 0.0005}
    assert record["chosen"] == {"prompt.num_virtual_tokens": 4, "training.learning_rate": 0.1}
    assert record["candidates"][0]["values"] == record["chosen"]


def test_a_shipped_value_is_the_default_if_the_config_does_not_have_its_key() -> None:
    grid: dict[str, list[Any]] = {
        "training.optimizer": ["adamw", "muon"],
        "training.weight_decay": [0.0, 0.1],
        "training.ema": [0.0, 0.9],
        "prompt.parametrization": ["direct", "low_rank"],
        "prompt.init_from": [None, "labels"],
        "training.learning_rate": [1, 2],
    }
    config = {"prompt": {"init_from": None}, "training": {"weight_decay": 0, "learning_rate": "1e-3"}}
    record = record_of(result_of([candidate_of({}, 0.5)]), ScreenConfig("prompt_tuning", grid), config)
    assert record["shipped"] == {
        "training.optimizer": "adamw",
        "training.weight_decay": 0.0,
        "training.ema": 0.0,
        "prompt.parametrization": "direct",
        "prompt.init_from": None,
        "training.learning_rate": 0.001,
    }
    assert in_words(record["shipped"]).startswith("optimizer adamw, weight_decay 0.0"), "as in the grid"
    assert record["apart"] == {}
    null = {"prompt": {"parametrization": "direct", "init_from": None}}
    screen = ScreenConfig("prompt_tuning", {"prompt.init_from": ["labels", None]})
    assert record_of(result_of([candidate_of({}, 0.5)]), screen, null)["shipped"] == {"prompt.init_from": None}


def candidate_of(values: dict[str, Any], value: float | None, loss: float = 0.5, **more: Any) -> dict[str, Any]:
    validations = [{"step": 0, "validation_loss": 9.0}, {"step": 3, "validation_loss": loss}]
    known = {"values": values, "value": value, "best_step": 3, "validations": validations}
    return known | {"failure": None, "steps": 3, "planned": 3, "left": False} | more


def result_of(candidates: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "notes": {"candidates": candidates},
        "settings": {"training": {"best_by": "loss"}},
        "seed": 7,
        "metrics": {"accuracy": {"value": 0.5}},
        "cost": {"seconds_total": 2.0},
        "environment": {"commit": "0"},
    }


def test_the_best_of_those_that_trained_to_their_end_is_chosen() -> None:
    candidates = [
        candidate_of({"a.x": 1}, 0.9, left=True),
        candidate_of({"a.x": 2}, 0.8, loss=0.3),
        candidate_of({"a.x": 3}, 0.8, loss=0.2),
        candidate_of({"a.x": 4}, None, failure="became nan"),
    ]
    record = record_of(result_of(candidates), ScreenConfig("lora", {}), {})
    assert record["chosen"] == {"a.x": 3}
    assert [c["values"]["a.x"] for c in record["candidates"]] == [1, 2, 3, 4], "what failed or left is kept, too"


@pytest.mark.parametrize(("name", "recipe", "message"), [
    ("sentimnt/x", "lora", '^study.screens: "sentimnt/x": expected TASK/NAME, with a task of configs/$'),
    ("sentiment", "lora", '^study.screens: "sentiment": expected TASK/NAME'),
    ("sentiment/x", "lorra", r'^study.screens: sentiment/x: recipe: "lorra" \(did you mean "lora"'),
    ("own_data/x", "lora", "^study.screens: own_data/x: there is no configs/own_data/lora.yaml$"),
    ("sentiment/lora_seeds", "lora", "lora_seeds: this name is that of a comparison: RECIPE_seeds, with seeds$"),
])  # fmt: skip
def test_a_wrong_screen_is_one_line(name: str, recipe: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(StudyConfig({name: ScreenConfig(recipe, GRID)}))


def test_a_halved_sweep_is_expected_to_take_less_than_its_full_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine candidates and a factor of three: 9 x 1/9, then 3 x 2/9, then 1 x 2/3 of a run."""
    monkeypatch.setattr(runner, "record_of_config", lambda *_: Path("nowhere"))
    grid: dict[str, list[Any]] = {"training.learning_rate": [1, 2, 3], "run.seed": [1, 2, 3]}
    study = StudyConfig({"sentiment/x": ScreenConfig("lora", grid)})
    assert runner.expected(study, "sentiment/x") == pytest.approx(runner.UNKNOWN * (1 + 2 / 3 + 2 / 3))


def test_a_later_first_rung_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "record_of_config", lambda *_: Path("nowhere"))
    grid: dict[str, list[Any]] = {"training.learning_rate": [1, 2, 3]}
    screen = ScreenConfig("lora", grid, factors={"training.warmup_steps": [1, 2, 3]})
    study = StudyConfig({"sentiment/x": screen}, first_rung=0.25)
    assert runner.expected(study, "sentiment/x") == pytest.approx(runner.UNKNOWN * (9 / 4 + 3 / 4 + 1 / 2))


def test_factors_multiply_the_shipped_value() -> None:
    screen = ScreenConfig("p_tuning", {"prompt.num_virtual_tokens": [4]}, factors={"training.learning_rate": [0.3, 1]})
    study = StudyConfig({"sentiment/mine": screen})
    made = config_of(study, "sentiment/mine", Path("there"))
    assert made["sweep"]["grid"] == {"encoder.num_virtual_tokens": [4], "training.learning_rate": [0.00015, 0.0005]}
    record = record_of(result_of([candidate_of({}, 0.5)]), screen, base_of("sentiment/mine", screen))
    assert record["shipped"] == {"prompt.num_virtual_tokens": 20, "training.learning_rate": 0.0005}


def test_what_starts_from_a_config_waits_for_the_screen_that_decides_it(tmp_path: Path) -> None:
    decides = tmp_path / "screens.yaml"
    decides.write_text("study: {screens: {sentiment/lora: {recipe: lora}}}", encoding="utf-8")
    screens = {"sentiment/mine": ScreenConfig("lora", GRID), "sentiment/other": ScreenConfig("p_tuning", GRID)}
    study = StudyConfig(screens, after=[str(decides)])
    check_order(study, "sentiment/other", tmp_path)
    with pytest.raises(UserError, match=r"study.after: sentiment/mine starts from a config that .* sentiment/lora dec"):
        check_order(study, "sentiment/mine", tmp_path)
    file = tmp_path / "sentiment" / "lora.json"
    file.parent.mkdir()
    rate = base_of("sentiment/mine", screens["sentiment/mine"])["training"]["learning_rate"]
    file.write_text(json.dumps({"chosen": {"training.learning_rate": rate}}), encoding="utf-8")
    check_order(study, "sentiment/mine", tmp_path)
    file.write_text(json.dumps({"chosen": {"training.learning_rate": 7.0}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"sentiment/lora.yaml does not have the choice of .*learning_rate: 7.0"):
        check_order(study, "sentiment/mine", tmp_path)
    seeds = {"candidates": [candidate_of({"training.learning_rate": rate, SEED: 1}, 0.5)]}
    file.with_stem("lora_seeds").write_text(json.dumps(seeds), encoding="utf-8")
    check_order(study, "sentiment/mine", tmp_path)


def test_the_mean_of_seeds_stands_above_the_sweep_of_one_seed() -> None:
    rate = "training.learning_rate"
    made = [
        candidate_of({rate: value, SEED: seed}, score)
        for value, scores in ((0.1, (-0.1, -0.9)), (0.2, (-0.4, -0.5)), (0.3, (-0.01, None)))
        for seed, score in enumerate(scores)
    ]
    screens = {"lora": {"chosen": {"lora.r": 8, rate: 0.1}}}
    assert decided(screens, "lora") == {"lora.r": 8, rate: 0.1}
    assert winner({"candidates": made}) == {rate: 0.2}
    assert decided(screens | {"lora_seeds": {"candidates": made}}, "lora") == {"lora.r": 8, rate: 0.2}


def test_the_shipped_study_is_complete() -> None:
    """A main screen for each method that trains, on each embedded task; its keys are those of the recipes."""
    study = shipped_study("screens")
    methods = ("prompt_tuning", "prefix_tuning", "p_tuning", "lora", "ia3", "full_finetuning")
    tasks = ("sentiment", "home_commands", "docstrings")
    assert {f"{t}/{m}" for t in tasks for m in methods} <= set(study.screens)


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_every_screen_is_a_sweep_that_its_recipe_takes(name: str, tmp_path: Path) -> None:
    """Each candidate has settings that go together."""
    study = shipped_study(name)
    check(study)
    for screen in study.screens:
        made = config_of(study, screen, Path("there"))
        assert made["evaluation"]["split"] == "validation", "test data never chooses anything"
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(made), encoding="utf-8")
        given = parse(load_recipe("sweep").main, ["--config", str(file)])
        sections = {key: given[key] for key in ("prompt", "prefix", "encoder", "lora", "ia3") if key in given}
        grid_of(given["sweep"], sections, given["training"], given["run"]).points()


def test_a_comparison_trains_every_candidate_to_its_end_with_each_seed() -> None:
    grid = {"training.optimizer": ["adamw", "muon"]}
    study = StudyConfig({"sentiment/x": ScreenConfig("prompt_tuning", grid, seeds=[3, 4])})
    made = config_of(study, "sentiment/x", Path("there"))["sweep"]
    assert made["grid"] == grid | {"run.seed": [3, 4]}
    assert (made["reduction_factor"], made["extensions"]) == (None, 0)
    assert runner.candidates(study.screens["sentiment/x"]) == 4
    study.screens["sentiment/prompt_tuning"] = study.screens.pop("sentiment/x")
    with pytest.raises(UserError, match="seeds: a screen that decides a shipped config is a sweep by halving"):
        check(study)


RECORDED = sorted((ROOT / "results" / "study").glob("*/*.json"))


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_record_is_of_its_shipped_screen(file: Path) -> None:
    """Two screens had been changed after their records, and make study took the records as theirs."""
    name = f"{file.parent.name}/{file.stem}"
    study = next(s for s in map(shipped_study, [part.stem for part in FILES]) if name in s.screens)
    check_record(study, name, file)


@pytest.mark.parametrize(("grid", "settings", "named"), [
    ({}, {"training.steps": 9}, "training.steps"),
    ({"training.learning_rate": [0.01]}, {}, "sweep.grid"),
])  # fmt: skip
def test_a_record_of_another_screen_is_refused(
    grid: dict[str, Any], settings: dict[str, Any], named: str, tmp_path: Path
) -> None:
    study = study_of("p_tuning", **{"training.steps": 5, "prompt.encoder_hidden_size": 32})
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"settings": config_of(study, "sentiment/mine", file)}), encoding="utf-8")
    check_record(study, "sentiment/mine", file)
    mine = study.screens["sentiment/mine"]
    changed = replace(study, screens={
        "sentiment/mine": replace(mine, grid=mine.grid | grid, settings=mine.settings | settings)
    })  # fmt: skip
    with pytest.raises(UserError, match=f"mine.json was measured with another {named}: give the screen another name"):
        check_record(changed, "sentiment/mine", file)


def test_a_record_stays_valid_if_the_shipped_rate_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise no choice of such a screen could be shipped with another rate."""
    rate = "training.learning_rate"
    study = study_of("p_tuning", **{"training.steps": 5})
    mine = replace(study.screens["sentiment/mine"], grid={}, factors={rate: [0.5, 1]})
    study = replace(study, screens={"sentiment/mine": mine})
    made = config_of(study, "sentiment/mine", tmp_path)
    shipped = made["sweep"]["grid"][rate][1]
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"settings": made, "shipped": {rate: shipped}}), encoding="utf-8")
    monkeypatch.setattr(study_settings, "value_of", lambda *_: 3 * shipped)
    assert config_of(study, "sentiment/mine", tmp_path)["sweep"]["grid"] != made["sweep"]["grid"]
    check_record(study, "sentiment/mine", file)
    other = replace(study, screens={"sentiment/mine": replace(mine, factors={rate: [0.5, 2]})})
    with pytest.raises(UserError, match=r"mine.json was measured with another sweep.grid"):
        check_record(other, "sentiment/mine", file)


def test_records_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"chosen": {"a.x": 1}}), encoding="utf-8")
    assert load_screen(file) == {"chosen": {"a.x": 1}}
