"""A sweep: candidates that differ in some settings train side by side, and validation chooses the best."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, get_type_hints

from softprompts.config.messages import check_values, wrong_value
from softprompts.config.sections import EvaluationConfig, RunConfig, TrainingConfig
from softprompts.config.yaml_files import PEFT_INTERNAL_FIELDS
from softprompts.engine.forward import Engine
from softprompts.errors import UserError, nearest
from softprompts.metrics.scoring import load_metrics, reported
from softprompts.runs.fingerprints import inputs_of
from softprompts.runs.plots import _ranked, _shown, plot_sweep
from softprompts.runs.record import Standing
from softprompts.runs.run import Run
from softprompts.system.files import replacing, write_atomically
from softprompts.tasks.checks import warn_of_scored_rows
from softprompts.tasks.documents import EncodedTask
from softprompts.tasks.targets import warn_of_cut_targets
from softprompts.tasks.tokenization import behind
from softprompts.training.loop import train_side_by_side
from softprompts.training.state import Candidate, check_training, make_candidate

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
        check_training(point.training, run.accelerator, names, len(data.train))
    inputs = inputs_of(data, engine.model)
    candidates = [
        make_candidate(
            engine, i, behind(data, i), point.training, point.seed, run.checkpoints / f"{i:03d}", point.name, inputs
        )
        for i, point in enumerate(grid)
    ]
    warn_of_scored_rows("training.eval_rows", data.validation, grid[0].training.eval_rows)
    warn_of_cut_targets(data, engine.tokenizer, evaluation.max_new_tokens, evaluation.stop)
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


@dataclass
class SweepConfig:
    """Candidates that train side by side over one base model: every combination of the values in `grid`.

    Args:
        grid: values of each key that varies, e.g. {training.learning_rate: [0.01, 0.02], run.seed: [0, 1]}. Any key
            of prompt and training may, and run.seed; the best on validation is kept.
    """

    grid: dict[str, list[str | int | float | bool | None]]


def save_sweep(run: Run, standings: Sequence[Standing], best_by: str) -> None:
    """Print the table and write `sweep.md` and `sweep.png`."""
    text = table(standings, best_by)
    if run.accelerator.is_main_process:
        write_atomically(run.output("sweep.md"), text + "\n")
        with replacing(run.output("sweep.png")) as picture:
            plot_sweep(standings, best_by, picture)
    run.say(text)


def table(standings: Sequence[Standing], best_by: str) -> str:
    """Return the candidates as a Markdown table, the best on validation first, those given up last."""
    keys = list(standings[0].values)
    head = [*(k.removeprefix("training.").removeprefix("prompt.") for k in keys), f"best validation {best_by}", "step"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for standing in _ranked(standings):
        value = "given up" if standing.value is None else f"{_shown(standing.value, best_by):.4f}"
        settings = [" ".join(str(standing.values[k]).split()).replace("|", "\\|") for k in keys]
        lines.append(f"| {' | '.join([*settings, value, str(standing.best_step)])} |")
    return "\n".join(lines)
