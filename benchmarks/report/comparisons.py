"""Pairs of a grid's methods, compared by their answers to the same rows."""

from __future__ import annotations

from benchmarks.grid.settings import Benchmark
from softprompts.metrics.scoring import Metric, load_metrics
from softprompts.metrics.significance import Comparison, compare
from softprompts.runs.record import Result
from softprompts.tasks.task import read_schema


def compare_methods(
    benchmark: Benchmark, metrics: dict[str, Metric] | None = None, resamples: int = 2000
) -> list[Comparison]:
    """Compare all pairs of methods that have finished runs, in the order of the grid, by their answers to its rows.

    By default by the metrics that the runs were scored by.
    """
    answers = {
        method: [[text.strip() for text in cell.answers] for _, cell in sorted(cells.items())]
        for method, cells in benchmark.cells.items()
        if cells
    }
    if metrics is None:
        finished = [cell for cells in benchmark.cells.values() for cell in cells.values()]
        metrics = recorded_metrics(finished[0].result) if finished else {}
    return compare(answers, [row["target"].strip() for row in benchmark.rows], metrics, resamples)


def recorded_metrics(result: Result) -> dict[str, Metric]:
    """Load the metrics that a run was scored by.

    Raises:
        UserError: the metrics, or the schema, of its task are no longer there.
    """
    task = result.settings["task"]
    return load_metrics(task["metrics"], read_schema(task["schema"]) if task.get("schema") else None)
