"""A sweep: candidates that differ in some settings train side by side, and validation chooses the best."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, get_type_hints

from softprompts.candidates import Candidate, check_training, make_candidate
from softprompts.config import EvaluationConfig, RunConfig, SweepConfig, TrainingConfig
from softprompts.data_checks import warn_of_scored_rows
from softprompts.encoding import EncodedTask, behind
from softprompts.engine import Engine
from softprompts.errors import UserError, nearest
from softprompts.fingerprints import inputs_of
from softprompts.keys import PEFT_INTERNAL_FIELDS, check_values, wrong_value
from softprompts.runs import Run
from softprompts.scoring import load_metrics, reported
from softprompts.training import train_side_by_side

from jsonargparse import ArgumentError, ArgumentParser
from peft import PromptTuningConfig

# What all candidates share: how they are compared, and how the forward passes are cut.
COMMON = ("best_by", "eval_rows", "micro_batch_tokens", "energy")


@dataclass(frozen=True)
class Point:
    """The settings of one candidate; `values` are those that vary, by dotted key."""

    values: dict[str, Any]
    prompt: PromptTuningConfig
    training: TrainingConfig
    seed: int

    @property
    def name(self) -> str:
        """The varied values, for people: "learning_rate=0.01 seed=1"."""
        return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.values.items())


@dataclass(frozen=True)
class Standing:
    """How a candidate ended: its best validation (`value`, the larger the better) and the curve of all of them."""

    values: dict[str, Any]
    value: float | None
    best_step: int
    validations: list[dict[str, float]]
    failure: str | None


def points(sweep: SweepConfig, prompt: PromptTuningConfig, training: TrainingConfig, run: RunConfig) -> list[Point]:
    """Return the settings of every candidate: all combinations of `sweep.grid`, its last key varying fastest.

    Raises:
        UserError: a key that there is not, or that may not vary; no values; a value twice or of the wrong type.
    """
    if training.energy:
        raise UserError("training.energy: the candidates of a sweep share their passes; measure a run of its own")
    sections: dict[str, Any] = {"prompt": prompt, "training": training, "run": run}
    valid = [f"prompt.{f.name}" for f in fields(prompt) if f.name not in PEFT_INTERNAL_FIELDS]
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
            mine = {k.split(".")[1]: v for k, v in varied.items() if k.startswith(f"{section}.")}
            try:  # at once: PEFT refuses a TEXT without its text
                changed[section] = replace(before, **mine)
            except ValueError as error:
                raise UserError(f"sweep.grid: {section}: {' '.join(str(error).split())}") from None
            check_values(section, changed[section])
        made.append(Point(varied, changed["prompt"], changed["training"], changed["run"].seed))
    return made


def _typed(key: str, hint: Any, value: Any) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        typed = parser.parse_object({"value": value}).value
        return typed.value if isinstance(typed, Enum) else typed
    except ArgumentError:
        raise UserError(f"sweep.grid: {wrong_value(key, hint, str(value))}") from None


def run_sweep(
    engine: Engine, grid: Sequence[Point], data: EncodedTask, evaluation: EvaluationConfig, run: Run
) -> tuple[Candidate, list[Standing]]:
    """Train the engine's bank side by side, one model for each point, and return the best on validation, and all.

    Raises:
        UserError, SystemExit: as `training.train`; more than one process.
    """
    if run.accelerator.num_processes > 1:
        raise UserError("a sweep trains its candidates side by side in one process; launch it with --num_processes 1")
    metrics = load_metrics(data.task.metrics, data.task.schema)
    names = reported(metrics, data.train[0].row.target)
    for point in grid:
        check_training(point.training, run.accelerator, names)
    inputs = inputs_of(data, engine.model)
    candidates = [
        make_candidate(
            engine, i, behind(data, i), point.training, point.seed, run.checkpoints / f"{i:03d}", point.name, inputs
        )
        for i, point in enumerate(grid)
    ]
    warn_of_scored_rows("training.eval_rows", data.validation, grid[0].training.eval_rows)
    train_side_by_side(engine, candidates, evaluation, run)
    standings = [
        Standing(
            point.values,
            None if c.failure else c.progress.best_value,
            c.progress.best_step,
            [entry for entry in c.progress.history if "validation_loss" in entry],
            c.failure,
        )
        for point, c in zip(grid, candidates, strict=True)
    ]
    return max((c for c in candidates if not c.failure), key=_rank), standings


def _rank(candidate: Candidate) -> tuple[float, float]:
    """The best validation decides, and among equals the smaller loss there."""
    progress = candidate.progress
    assert progress.best_value is not None
    losses = {e["step"]: e["validation_loss"] for e in progress.history if "validation_loss" in e}
    return progress.best_value, -losses[progress.best_step]
