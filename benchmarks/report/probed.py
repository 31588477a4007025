"""Compare methods by their probes: losses on other texts, sampled predictions, and rows of other kinds.

All runs of a grid are measured on the same few rows. So rows are drawn as well as seeds: if every seed of one method is
above every seed of another, this may be the choice of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from benchmarks.grid.settings import Benchmark, Cell
from benchmarks.report.frame import drawn_name, kind_of, results_of
from softprompts.metrics.scoring import Metric, compute_metrics
from softprompts.metrics.significance import Comparison, compare, compare_sums
from softprompts.reports.pages.frame import recorded_metrics

import numpy

RESAMPLES = 2000


def compare_probes(benchmark: Benchmark, metrics: dict[str, Metric] | None = None) -> list[Comparison]:
    """Compare all pairs of methods by each number of their probes, named as its column in `frame.runs_frame`.

    A method is left out if a run of it has no probe, or one without the numbers of its rows. The default metrics are
    those of the runs' scores.
    """
    if metrics is None:
        metrics = recorded_metrics(results_of(benchmark))
    runs = {m: [cell for _, cell in sorted(cells.items())] for m, cells in benchmark.cells.items() if cells}
    found: list[Comparison] = []
    sums = {m: [_sums(cell, metrics) for cell in cells] for m, cells in runs.items()}
    for name in dict.fromkeys(name for each in sums.values() for name in each[0]):
        known = {m: [one[name][0] for one in each] for m, each in sums.items() if all(name in one for one in each)}
        less = next(one[name][1] for each in sums.values() for one in each if name in one)
        found += compare_sums(known, name, RESAMPLES, less)
    others = {m: [_answers(cell) for cell in cells] for m, cells in runs.items()}
    for kind in dict.fromkeys(kind for each in others.values() for kind in each[0]):
        said = {m: [one[kind][0] for one in each] for m, each in others.items() if all(kind in one for one in each)}
        targets = next(one[kind][1] for each in others.values() for one in each if kind in one)
        compared = compare(said, targets, metrics, RESAMPLES)
        found += [replace(c, metric=f"transfer.{kind}.{c.metric}") for c in compared]
    return found


def _sums(cell: Cell, metrics: dict[str, Metric]) -> dict[str, tuple[numpy.ndarray, bool]]:
    """Return the two summands of each row for each number, (rows, 2), and whether less is better."""
    found = {}
    forgetting = cell.probes.get("forgetting", {})
    for what, values in {"general": forgetting.get("general", {}), **forgetting.get("tasks", {})}.items():
        if rows := values.get("by_row"):
            table = numpy.array([rows["sums"], rows["counts"]], dtype=float).T
            found[f"attached.{what}"] = (table, values.get("metric", "loss") == "loss")
    drawn = cell.probes.get("sampling", {})
    if answers := drawn.get("answers"):
        numbers = {"agreement": drawn["agreement_by_row"], **_means(answers, drawn["targets"], metrics)}
        for name, each in numbers.items():
            found[f"{drawn_name(drawn)}.{name}"] = (numpy.array([each, [1] * len(each)], dtype=float).T, False)
    return found


def _means(
    drawn: Sequence[Sequence[str]], targets: Sequence[str], metrics: dict[str, Metric]
) -> dict[str, list[float]]:
    """Return each row's mean over its draws, of the numbers that are means over rows."""
    rows = [
        [compute_metrics(metrics, [text], [target]) for text in texts]
        for texts, target in zip(zip(*drawn, strict=True), targets, strict=True)
    ]
    whole = [compute_metrics(metrics, list(texts), list(targets)) for texts in drawn]
    found = {name: [mean(one[name] for one in row) for row in rows] for name in whole[0]}
    return {name: each for name, each in found.items() if abs(mean(each) - mean(w[name] for w in whole)) < 1e-9}


def _answers(cell: Cell) -> Mapping[str, tuple[list[str], list[str]]]:
    """Return the predictions for each kind of other rows, and their targets."""
    others: Sequence[Mapping[str, Any]] = cell.probes.get("transfer", [])
    return {kind_of(other["where"]): (other["answers"], other["targets"]) for other in others if "answers" in other}
