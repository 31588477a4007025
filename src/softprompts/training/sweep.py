"""A sweep: candidates that differ in some settings train side by side, and validation chooses the best."""

from __future__ import annotations

from collections.abc import Sequence

from softprompts.config.grid import Point
from softprompts.config.sections import EvaluationConfig
from softprompts.encoding.documents import EncodedTask, with_soft_prompt
from softprompts.encoding.targets import warn_of_cut_targets
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.metrics.scoring import load_metrics, reported
from softprompts.runs.fingerprints import inputs_of
from softprompts.runs.plots import as_read, plot_sweep, ranked
from softprompts.runs.record import Standing
from softprompts.runs.run import Run
from softprompts.runs.tables import markdown_table
from softprompts.system.files import replacing, write_atomically
from softprompts.tasks.checks import warn_of_scored_rows
from softprompts.training.checks import check_training
from softprompts.training.loop import train_side_by_side
from softprompts.training.state import Candidate, make_candidate


def run_sweep(
    engine: Engine, grid: Sequence[Point], data: EncodedTask, evaluation: EvaluationConfig, run: Run
) -> tuple[Candidate, list[Standing]]:
    """Train the engine's bank side by side, one model for each point, and return the best on validation, and all.

    Raises:
        UserError, Interrupted: as `training.train`; more than one process.
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
            engine,
            i,
            data=with_soft_prompt(data, i),
            training=point.training,
            seed=point.seed,
            folder=run.checkpoints / f"{i:03d}",
            name=point.name,
            inputs=inputs,
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
    rows = []
    for standing in ranked(standings):
        value = "given up" if standing.value is None else f"{as_read(standing.value, best_by):.4f}"
        rows.append([*(str(standing.values[k]) for k in keys), value, str(standing.best_step)])
    return markdown_table(head, rows)
