"""Read the parts of a recipe's config that matter before training: the shared sections, and the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

from softprompts.config.cli import build_parser, parse_sections
from softprompts.config.methods import (
    ContextConfig,
    CPTConfig,
    EncoderConfig,
    HardPromptConfig,
    IA3Config,
    LoraConfig,
    MultitaskConfig,
    PrefixConfig,
    PromptConfig,
)
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig, TrainingConfig
from softprompts.config.yaml_files import check_yaml, tree_of
from softprompts.errors import UserError, nearest, short
from softprompts.methods.catalog import METHODS
from softprompts.sweeps.grid import SweepConfig

import yaml

# The methods' own sections. This module checks their keys; the recipe checks their values when it runs.
METHOD_SECTIONS: dict[str, tuple[type, ...]] = {
    "prompt": (PromptConfig, EncoderConfig, MultitaskConfig),
    "prefix": (PrefixConfig,),
    "context": (ContextConfig,),
    "cpt": (CPTConfig,),
    "encoder": (EncoderConfig,),
    "lora": (LoraConfig,),
    "ia3": (IA3Config,),
    "hard": (HardPromptConfig,),
    "sweep": (SweepConfig,),
}
POSITIONS = ("num_virtual_tokens", "demonstrations")  # settings that use positions of the base model
VIRTUAL_TOKENS = 20  # the default of every recipe with virtual tokens


@dataclass(frozen=True)
class RecipeSettings:
    """The settings of a recipe.

    Args:
        path: path of its config.
        method: method that it trains, one of METHODS.
        model: settings of the base model.
        task: settings of the data.
        training: settings of training; the defaults if the recipe does not train.
        evaluation: settings of scoring.
        run: settings of the run and its folder.
        virtual_tokens: number of the model's positions that the method uses; the largest of a sweep.
        demonstrations: rows of train that become a soft prompt; None for a method without them.
        candidates: number of a sweep's trainings, 1 for any other recipe.
    """

    path: str
    method: str
    model: ModelConfig
    task: TaskConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    run: RunConfig
    virtual_tokens: int
    demonstrations: ContextConfig | CPTConfig | None
    candidates: int


def _shared(
    model: ModelConfig, task: TaskConfig, training: TrainingConfig, evaluation: EvaluationConfig, run: RunConfig
) -> None:
    """Name the shared sections; the signature is their schema."""


def _context(context: ContextConfig) -> None:
    """Name the section of context tuning."""


def _cpt(cpt: CPTConfig) -> None:
    """Name the section of CPT."""


DEMONSTRATED: dict[str, Callable[..., None]] = {"context": _context, "cpt": _cpt}


def read_recipe(path: str) -> RecipeSettings:
    """Read the config of a recipe that trains, of a sweep, or of hard_prompt.

    Raises:
        UserError: no such file; malformed YAML; a key that no recipe reads; a value of the wrong type.
    """
    _, shared = build_parser(_shared)
    own = {
        f"{name}.{field.name}" for name, kinds in METHOD_SECTIONS.items() for kind in kinds for field in fields(kind)
    }
    check_yaml(path, shared | own | METHOD_SECTIONS.keys())
    tree = tree_of(Path(path), path)
    sections = {name.partition(".")[0] for name in shared}
    kept = {key: value for key, value in tree.items() if key.partition(".")[0] in sections}
    arguments = parse_sections(_shared, yaml.safe_dump(kept, allow_unicode=True))
    nested = _nested(tree)
    candidates = _candidates(nested, path)
    method = _method(Path(path).stem, nested)
    _use_largest(nested)
    return RecipeSettings(
        path=path,
        method=method,
        virtual_tokens=_virtual_tokens(method, nested, path),
        demonstrations=_demonstrations(method, nested),
        candidates=candidates,
        **arguments,
    )


def _nested(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections of a config; `prompt.num_virtual_tokens: 50` is as good as a section with that key."""
    found: dict[str, dict[str, Any]] = {key: dict(value) for key, value in tree.items() if isinstance(value, dict)}
    for key, value in tree.items():
        section, dot, name = key.partition(".")
        if dot:
            found.setdefault(section, {})[name] = value
    return found


def _use_largest(tree: dict[str, dict[str, Any]]) -> None:
    """Give each section the largest number of positions of a sweep's grid: all candidates must fit into the model."""
    for key, values in (tree.get("sweep", {}).get("grid") or {}).items():
        section, _, name = key.partition(".")
        if name in POSITIONS and all(type(value) is int for value in values):
            tree.setdefault(section, {})[name] = max(values)


def _candidates(tree: dict[str, Any], path: str) -> int:
    """Return how many combinations the grid of a sweep has; 1 without one."""
    grid = tree.get("sweep", {}).get("grid") or {}
    for key, values in grid.items() if isinstance(grid, dict) else ():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: sweep.grid: {short(key)}: expected a list of values, found {short(repr(values))}")
    return prod(map(len, grid.values())) if isinstance(grid, dict) else 1


def _method(name: str, tree: dict[str, Any]) -> str:
    """Return the method of a config, by its sweep, its file's name, or a section that only one method has."""
    if "sweep" in tree:
        swept = str(tree["sweep"].get("method", SweepConfig.method))
        if swept not in METHODS:
            raise UserError(f'sweep.method: unknown method "{short(swept)}"{nearest(swept, METHODS)}')
        return swept
    if name in METHODS:
        return name
    found = [method.name for method in METHODS.values() if method.section in tree]
    return found[0] if found else "full_finetuning"


def _virtual_tokens(method: str, tree: dict[str, Any], path: str) -> int:
    if METHODS[method].what != "soft":
        return 0
    for section in (METHODS[method].section, "encoder"):
        if (found := tree.get(section, {}).get("num_virtual_tokens", VIRTUAL_TOKENS)) != VIRTUAL_TOKENS:
            if not isinstance(found, int) or isinstance(found, bool) or found < 1:
                key = f"{section}.num_virtual_tokens"
                raise UserError(f"{path}: {key}: expected a whole number above 0, found {short(repr(found))}")
            return found
    return VIRTUAL_TOKENS


def _demonstrations(method: str, tree: dict[str, Any]) -> ContextConfig | CPTConfig | None:
    """Return the section of a method for few rows, with its defaults."""
    section = METHODS[method].section
    if section not in DEMONSTRATED:
        return None
    own = yaml.safe_dump({section: tree.get(section, {})}, allow_unicode=True)
    found: ContextConfig | CPTConfig = parse_sections(DEMONSTRATED[section], own)[section]
    return found
