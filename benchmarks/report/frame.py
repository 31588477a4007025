"""The records of all benchmarks as one table of pandas: a row a planned run, a column a number of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.grid.settings import Benchmark, Cell, seeds_of
from softprompts.metrics.scoring import Metric, load_metrics
from softprompts.metrics.significance import Comparison, compare
from softprompts.runs.record import Result
from softprompts.tasks.task import read_schema

import pandas


@dataclass(frozen=True)
class Records:
    """All that a report is made of.

    benchmarks: by name; comparisons: of each benchmark's methods, by its name; runs: see `runs_frame`.
    """

    benchmarks: Mapping[str, Benchmark]
    comparisons: Mapping[str, Sequence[Comparison]]
    runs: pandas.DataFrame

    def of(self, name: str) -> pandas.DataFrame:
        """Return the planned runs of a benchmark, indexed by method and seed, in the order of the grid."""
        return self.runs.loc[name]

    def label(self, name: str, method: str) -> str:
        """Return what tables call a method of a benchmark."""
        return self.benchmarks[name].label(method)

    def compared(self, name: str, metric: str, first: str, second: str) -> Comparison | None:
        """Return the comparison of two methods, seen from the first; None if there is none."""
        for c in self.comparisons.get(name, ()):
            if c.metric == metric and {c.first, c.second} == {first, second}:
                return c if c.first == first else turned(c)
        return None


def make_records(benchmarks: Sequence[Benchmark], comparisons: Mapping[str, Sequence[Comparison]]) -> Records:
    """Return the records of benchmarks, in their order, with the comparisons of each by its name."""
    return Records({b.name: b for b in benchmarks}, comparisons, runs_frame(benchmarks))


def runs_frame(benchmarks: Sequence[Benchmark]) -> pandas.DataFrame:
    """Return a row a planned run, indexed by benchmark, method and seed; what a run did not measure is NaN.

    Columns: `label` of the method; `gap`, why a run has no record, empty if it has one; and the numbers of the run:
    `metric.NAME`, `majority.NAME` (the baseline), `parameters.NAME`, `cost.NAME`, `latency.NAME`,
    `attached.WHAT` and `detached.WHAT` (the change that a method brings to the loss on general text, or to the score
    on another task), `drawn.DRAWSxTEMPERATURE.NAME` and `transfer.ROWS.METRIC`.
    """
    rows: list[dict[str, Any]] = []
    for benchmark in benchmarks:
        for method in benchmark.grid["methods"]:
            for seed in seeds_of(benchmark.grid, method):
                run = {"benchmark": benchmark.name, "method": method, "seed": seed, "label": benchmark.label(method)}
                if cell := benchmark.cells[method].get(seed):
                    rows.append(run | {"gap": ""} | _numbers(cell))
                else:
                    reason = benchmark.failed[method].get(seed)
                    rows.append(run | {"gap": "no record" if reason is None else f"failed: {reason}"})
    index = ["benchmark", "method", "seed"]
    return pandas.DataFrame(rows, columns=None if rows else [*index, "label", "gap"]).set_index(index)


def _numbers(cell: Cell) -> dict[str, float | None]:
    result, probes = cell.result, cell.probes
    latency = dict(probes.get("latency") or {})
    if {"prompt_tokens", "virtual_tokens"} <= latency.keys():
        latency["read_tokens"] = latency["prompt_tokens"] + latency["virtual_tokens"]
    groups: dict[str, Mapping[str, Any]] = {
        "metric": {name: x.value for name, x in result.metrics.items()},
        "majority": {name: x.value for name, x in result.baselines.get("majority_class", {}).items()},
        "parameters": result.parameters,
        "cost": result.cost,
        "latency": latency,
    }
    forgetting = probes.get("forgetting", {})
    measured = {"general": forgetting.get("general", {}), **forgetting.get("tasks", {})}
    for state in ("attached", "detached"):
        changed = {what: (values.get(state), values.get("base")) for what, values in measured.items()}
        groups[state] = {what: after - base for what, (after, base) in changed.items() if after is not None}
    if drawn := probes.get("sampling"):
        name = f"drawn.{drawn.get('draws')}x{drawn.get('temperature')}"
        groups[name] = {**drawn["metrics"], "agreement": drawn["agreement"]}
    for other in probes.get("transfer", []):
        groups[f"transfer.{kind_of(other['where'])}"] = other["metrics"]
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def kind_of(where: Mapping[str, Sequence[Any]]) -> str:
    """Return the name of the rows that a filter keeps: "tweets, reviews"."""
    return ", ".join(str(value) for values in where.values() for value in values)


def numbers(runs: pandas.DataFrame, column: str) -> pandas.Series:
    """Return the numbers of a column that were measured, in the order of the runs; none if no run has the column."""
    return (runs[column] if column in runs else pandas.Series(index=runs.index, dtype=float)).dropna()


def by_method(runs: pandas.DataFrame) -> dict[str, pandas.DataFrame]:
    """Return the planned runs of each method, in the order of the grid."""
    return dict(iter(runs.groupby(level="method", sort=False)))


def recorded(runs: pandas.DataFrame) -> pandas.DataFrame:
    """Return the runs that have a record."""
    return runs[runs["gap"] == ""]


def metrics_of(benchmark: Benchmark) -> list[str]:
    """Return every metric that a run reports, the task's main one first: an older run may lack some."""
    reported = [list(cell.result.metrics) for runs in benchmark.cells.values() for cell in runs.values()]
    return list(dict.fromkeys(name for names in sorted(reported, key=len, reverse=True) for name in names))


def gaps(runs: pandas.DataFrame) -> list[str]:
    """Return what runs are missing: "LoRA, seeds 1, 2 (failed: out of memory)"."""
    lacking = runs[runs["gap"] != ""].reset_index()
    if lacking.empty:
        return []
    groups = lacking.groupby(["method", "label", "gap"], sort=False)["seed"]
    return [f"{label}, {seeds_in_words(seeds)} ({gap})" for (_, label, gap), seeds in groups]


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Return "seed 1", or "seeds 1, 2"."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


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
        metrics = recorded_metrics([cell.result for cells in benchmark.cells.values() for cell in cells.values()])
    return compare(answers, [row["target"].strip() for row in benchmark.rows], metrics, resamples)


def recorded_metrics(results: Sequence[Result]) -> dict[str, Metric]:
    """Load the metrics that any of the runs was scored by.

    Raises:
        UserError: the metrics, or the schema, of their task are no longer there.
    """
    tasks = [result.settings["task"] for result in results]
    names = list(dict.fromkeys(name for task in tasks for name in task["metrics"]))
    schema = next((task["schema"] for task in tasks if task.get("schema")), None)
    return load_metrics(names, read_schema(schema) if schema else None)


def turned(comparison: Comparison) -> Comparison:
    """Return a comparison as seen from its second method."""
    c = comparison
    seeds = (c.seeds[1], c.seeds[0])
    return replace(c, first=c.second, second=c.first, seeds=seeds, difference=-c.difference, low=-c.high, high=-c.low)
