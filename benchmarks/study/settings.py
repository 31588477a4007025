"""The screens of the study, and their records in `results/study/TASK/SCREEN.json`.

A screen is either a sweep by successive halving, whose candidates are as long as a real run, or a comparison. In a
comparison every candidate trains to its end with several seeds. Screens are scored on validation only. A screen that
has its recipe's name decides the shipped config. If there is a comparison named RECIPE_seeds, its values stand above.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Literal, get_type_hints

from softprompts.config.methods import EncoderConfig, IA3Config, LoraConfig, PrefixConfig, PromptConfig
from softprompts.config.sections import RunConfig, TrainingConfig
from softprompts.errors import UserError, nearest
from softprompts.methods.catalog import METHODS
from softprompts.runs.record import Standing, ranked
from softprompts.sweeps.grid import SEED, typed_value

import yaml

# P-tuning's recipe names its section `prompt`, but in a sweep this name is prompt tuning's.
RENAMED = {"p_tuning": {"prompt": "encoder"}}
# The sections of a sweep whose keys may vary.
KINDS: dict[str, type] = {
    "prompt": PromptConfig,
    "prefix": PrefixConfig,
    "encoder": EncoderConfig,
    "lora": LoraConfig,
    "ia3": IA3Config,
    "training": TrainingConfig,
    "run": RunConfig,
}
OF_SEEDS = "_seeds"  # the end of a comparison's name that decides a shipped config
# Settings of a screen that say how it is judged or computed, and are no part of what it tries.
CRITERIA = ("model.dtype", "training.best_by", "training.micro_batch_tokens")


@dataclass
class ScreenConfig:
    """One sweep.

    Args:
        recipe: recipe whose shipped config of the task is the base of the candidates.
        grid: values of dotted keys; every combination is a candidate.
        settings: further differences from the shipped config, by dotted key.
        factors: like `grid`, but each value is a factor of the shipped config's value; 1 is the shipped one.
        seeds: seeds of each candidate in a comparison; empty in a sweep by halving.
        mixed_precision: as of `accelerate launch --mixed_precision`, for weights that have to stay in 32 bits; auto is
            bf16 if the processor or GPU has instructions for it.
    """

    recipe: str
    grid: dict[str, list[Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    factors: dict[str, list[float]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = "no"


@dataclass
class StudyConfig:
    """All screens.

    Args:
        screens: screens by task and name, e.g. `sentiment/lora`. A screen with its recipe's name decides the shipped
            config, and a comparison named `sentiment/lora_seeds` decides between some of its candidates.
        settings: settings of all screens, by dotted key.
        seed: seed of the candidates; no run on test has this seed.
        reduction_factor: factor of the halving.
        first_rung: smallest share of the steps after which candidates leave; None leaves it to their number.
        after: files of studies that decide shipped configs. A screen of another name starts from such a config, so it
            waits until that study's screen is recorded and the config has its choice.
        extensions: greatest number of candidates beyond an edge.
    """

    screens: dict[str, ScreenConfig]
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 100
    reduction_factor: int = 3
    first_rung: float | None = None
    after: list[str] = field(default_factory=list)
    extensions: int = 4


def check(study: StudyConfig) -> None:
    """Raise `UserError` for a screen of no task, of no recipe, or of one without a shipped config."""
    for name, screen in study.screens.items():
        task, _, own = name.partition("/")
        if not own or not Path("configs", task).is_dir():
            raise UserError(f'study.screens: "{name}": expected TASK/NAME, with a task of configs/')
        if screen.recipe not in METHODS:
            raise UserError(f'study.screens: {name}: recipe: "{screen.recipe}"{nearest(screen.recipe, METHODS)}')
        if not shipped(name, screen).is_file():
            raise UserError(f"study.screens: {name}: there is no {shipped(name, screen)}")
        if screen.seeds and own == screen.recipe:
            raise UserError(
                f"study.screens: {name}: seeds: a screen that decides a shipped config is a sweep by halving"
            )
        if own.endswith(OF_SEEDS) and not (screen.seeds and own == f"{screen.recipe}{OF_SEEDS}"):
            raise UserError(f"study.screens: {name}: this name is that of a comparison: RECIPE{OF_SEEDS}, with seeds")


def shipped(name: str, screen: ScreenConfig) -> Path:
    """Return the config that is the base of a screen's candidates."""
    return Path("configs") / name.split("/")[0] / f"{screen.recipe}.yaml"


def base_of(name: str, screen: ScreenConfig) -> dict[str, Any]:
    """Return the shipped config that a screen starts from, with the sections of a sweep."""
    made: dict[str, Any] = yaml.safe_load(shipped(name, screen).read_text(encoding="utf-8"))
    other = RENAMED.get(screen.recipe, {})
    return {other.get(section, section): values for section, values in made.items()}


def grid_of(name: str, screen: ScreenConfig, then: Mapping[str, Any] | None = None) -> dict[str, list[Any]]:
    """Return the values of each key that a screen varies, under the recipe's names of the keys.

    `then` are the shipped values at the time of a record. By default they are those of now.
    """
    base, other = base_of(name, screen), RENAMED.get(screen.recipe, {})
    made = dict(screen.grid)
    for key, factors in screen.factors.items():
        value = value_of(base, in_sweep(key, other)) if then is None else then[key]
        made[key] = [float(f"{factor * value:.3g}") for factor in factors]
    return made


def check_order(study: StudyConfig, name: str, records: Path) -> None:
    """Raise `UserError` if the config that a screen starts from does not have the choice of its own screen yet."""
    screen = study.screens[name]
    decides = f"{name.split('/')[0]}/{screen.recipe}"
    if name == decides or not any(decides in _screens_of(file) for file in study.after):
        return
    file = records / f"{decides}.json"
    if not file.is_file():
        raise UserError(f"study.after: {name} starts from a config that the screen {decides} decides; run that first")
    base, other = base_of(name, screen), RENAMED.get(screen.recipe, {})
    left = {
        key: value
        for key, value in decided(load_screens(file.parent), screen.recipe).items()
        if value_of(base, in_sweep(key, other)) != value
    }
    if left:
        values = ", ".join(f"{key}: {value}" for key, value in left.items())
        raise UserError(f"study.after: {shipped(name, screen)} does not have the choice of {file} yet: {values}")


def _screens_of(file: str) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(Path(file).read_text(encoding="utf-8"))["study"]["screens"]
    return made


def config_of(study: StudyConfig, name: str, folder: Path) -> dict[str, Any]:
    """Return the config of a screen's sweep, complete."""
    screen = study.screens[name]
    other = RENAMED.get(screen.recipe, {})
    made = base_of(name, screen)
    for key, value in (study.settings | screen.settings).items():
        section, _, own = in_sweep(key, other).partition(".")
        made.setdefault(section, {})[own] = value
    grid = {in_sweep(key, other): values for key, values in grid_of(name, screen).items()}
    if screen.seeds:
        halving: dict[str, Any] = {"grid": grid | {SEED: screen.seeds}, "reduction_factor": None, "extensions": 0}
    else:
        halving = {"grid": grid, "reduction_factor": study.reduction_factor, "extensions": study.extensions}
        halving["first_rung"] = study.first_rung
    made["sweep"] = {"method": screen.recipe, **halving}
    made["evaluation"]["split"] = "validation"  # test stays unseen
    made["run"] |= {"output_dir": str(folder), "seed": study.seed, "trackers": []}
    return made


def check_record(study: StudyConfig, name: str, file: Path) -> None:
    """Raise `UserError` if a screen's record was made with another grid, or with other settings of the screen's own."""
    screen, record = study.screens[name], load_screen(file)
    made, now, other = record["settings"], config_of(study, name, file), RENAMED.get(screen.recipe, {})
    # A shipped rate that changed since the record does not make its grid another one.
    factors = grid_of(name, screen, record["shipped"]) if screen.factors else {}
    now["sweep"]["grid"] |= {in_sweep(key, other): factors[key] for key in screen.factors}
    changed = [f"sweep.{key}" for key in ("grid", "reduction_factor") if made["sweep"][key] != now["sweep"][key]]
    for key in screen.settings:
        section, _, own = in_sweep(key, other).partition(".")
        if made[section].get(own) != now[section][own]:
            changed.append(key)
    if changed:
        raise UserError(
            f"{file} was measured with another {', '.join(changed)}: give the screen another name, or move its record "
            "away"
        )


def in_sweep(key: str, renamed: Mapping[str, str]) -> str:
    """Return a key under its name in a sweep."""
    section, _, own = key.partition(".")
    return f"{renamed.get(section, section)}.{own}"


def record_of(result: Mapping[str, Any], screen: ScreenConfig, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a finished sweep: its candidates under the names of the recipe's keys.

    `shipped` are the values of these keys in the shipped config at that time. If there is anything in `apart`, the
    shipped choice is none of the candidates.

    Args:
        result: record of the sweep's run.
        screen: the screen.
        base: the shipped config, by `base_of`.
    """
    other = RENAMED.get(screen.recipe, {})
    back = {new: old for old, new in other.items()}
    candidates = [
        c | {"values": {in_sweep(key, back): value for key, value in c["values"].items()}}
        for c in result["notes"]["candidates"]
    ]
    return {
        "recipe": screen.recipe,
        "chosen": ranked(Standing(**c) for c in candidates)[0].values,
        "shipped": {key: value_of(base, in_sweep(key, other)) for key in (*screen.grid, *screen.factors)},
        "apart": apart(screen, base),
        "by": result["settings"]["training"]["best_by"],
        "seed": result["seed"],
        "candidates": candidates,
        "validation_metrics": {name: metric["value"] for name, metric in result["metrics"].items()},
        "settings": result["settings"],
        "cost": result["cost"],
        "environment": result["environment"],
    }


def apart(screen: ScreenConfig, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a shipped config, by `base_of`, of which all candidates of a screen have another."""
    other = RENAMED.get(screen.recipe, {})
    own = {key: value_of(base, in_sweep(key, other)) for key in screen.settings if key not in CRITERIA}
    return {key: value for key, value in own.items() if _plain(value) != _plain(screen.settings[key])}


def _plain(value: Any) -> Any:
    """Return a value as settings are compared: null and TEXT are the same `prompt_tuning_init`."""
    return None if value == "TEXT" else value


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a sweep's key as the recipe reads it: the key's default if the config does not have it."""
    section, _, own = key.partition(".")
    if section not in KINDS:
        return config.get(section, {}).get(own)
    kind = KINDS[section]
    if own not in config.get(section, {}):
        return getattr(kind(), own)
    return typed_value(key, get_type_hints(kind)[own], config[section][own])


def decided(screens: Mapping[str, Mapping[str, Any]], recipe: str) -> dict[str, Any]:
    """Return the values that a task's shipped config has to have, from the task's records by name."""
    seeds = screens.get(f"{recipe}{OF_SEEDS}")
    return dict(screens[recipe]["chosen"]) | (winner(seeds) if seeds else {})


def winner(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with the best mean over the seeds of a comparison; a seed that was given up is the worst."""
    groups: dict[str, list[float]] = {}
    values: dict[str, dict[str, Any]] = {}
    for one in record["candidates"]:
        own = {key: value for key, value in one["values"].items() if key != SEED}
        values[str(own)] = own
        groups.setdefault(str(own), []).append(-math.inf if one["value"] is None else one["value"])
    return values[max(groups, key=lambda name: mean(groups[name]))]


def load_screens(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the records of a task, by name."""
    return {file.stem: load_screen(file) for file in sorted(folder.glob("*.json"))}


def load_screen(file: Path) -> dict[str, Any]:
    """Read a record."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
