"""The combinations of a sweep: settings of prompt and training, one set a candidate."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

from softprompts.config.messages import check_values, wrong_value
from softprompts.config.methods import PromptConfig, SweepConfig
from softprompts.config.sections import RunConfig, TrainingConfig
from softprompts.errors import UserError, nearest

from jsonargparse import ArgumentError, ArgumentParser

# What all candidates share: how they are compared, and how the forward passes are cut.
COMMON = ("best_by", "eval_rows", "micro_batch_tokens", "energy")


@dataclass(frozen=True)
class Point:
    """The settings of one candidate; `values` are those that vary, by dotted key."""

    values: dict[str, Any]
    prompt: PromptConfig
    training: TrainingConfig
    seed: int

    @property
    def name(self) -> str:
        """The varied values, for people: "learning_rate=0.01 seed=1"."""
        return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.values.items())


def points(sweep: SweepConfig, prompt: PromptConfig, training: TrainingConfig, run: RunConfig) -> list[Point]:
    """Return the settings of every candidate: all combinations of `sweep.grid`, its last key varying fastest.

    Raises:
        UserError: a key that there is not, or that may not vary; no values; a value twice or of the wrong type.
    """
    if training.energy:
        raise UserError("training.energy: the candidates of a sweep share their passes; measure a run of its own")
    sections: dict[str, Any] = {"prompt": prompt, "training": training, "run": run}
    valid = [f"prompt.{f.name}" for f in fields(prompt)]
    valid += [f"training.{f.name}" for f in fields(training) if f.name not in COMMON]
    valid += ["run.seed"]
    if not sweep.grid:
        raise UserError("sweep.grid: expected at least one key with its values")
    grid = {}
    for key, values in sweep.grid.items():
        if key not in valid:
            raise UserError(f'sweep.grid: "{key}" cannot vary{nearest(key, valid)}')
        section, name = key.split(".")
        hint = get_type_hints(type(sections[section]))[name]
        grid[key] = [_typed(key, hint, value) for value in values]
        if not values or any(value in grid[key][:i] for i, value in enumerate(grid[key])):
            raise UserError(f"sweep.grid: {key}: expected one or more different values, found {values}")
    made = []
    for combination in itertools.product(*grid.values()):
        varied = dict(zip(grid, combination, strict=True))
        changed = {}
        for section, before in sections.items():
            own = {k.split(".")[1]: v for k, v in varied.items() if k.startswith(f"{section}.")}
            changed[section] = replace(before, **own)
            check_values(section, changed[section])
        made.append(Point(varied, changed["prompt"], changed["training"], changed["run"].seed))
    return made


def _typed(key: str, hint: Any, value: Any) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_object({"value": value}).value
    except ArgumentError:
        raise UserError(f"sweep.grid: {wrong_value(key, hint, str(value))}") from None
