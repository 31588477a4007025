"""Make a pandas table of the records of all benchmarks: a row per planned run, a column per number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.grid.settings import Benchmark, Cell, seeds_of
from softprompts.metrics.scoring import Metric
from softprompts.metrics.significance import Comparison, compare
from softprompts.reports.pages.frame import flat, metrics_of, numbers_of, recorded_metrics
from softprompts.runs.record import Result

import pandas


@dataclass(frozen=True)
class Records:
    """The data of a report.

    benchmarks: by name; comparisons: of each benchmark's methods, by the benchmark's name; probed: likewise, by the
    numbers of their probes; runs: see `runs_frame`.
    """

    benchmarks: Mapping[str, Benchmark]
    comparisons: Mapping[str, Sequence[Comparison]]
    probed: Mapping[str, Sequence[Comparison]]
    runs: pandas.DataFrame

    def main(self, task: str) -> str:
        """Return the name of the benchmark that represents a task."""
        return main_benchmark(self.benchmarks, task)

    def of(self, name: str) -> pandas.DataFrame:
        """Return the planned runs of a benchmark, indexed by method and seed, in the order of the grid."""
        return self.runs.loc[name]

    def label(self, name: str, method: str) -> str:
        """Return the name of a benchmark's method in tables."""
        return self.benchmarks[name].label(method)

    def metrics(self, name: str) -> list[str]:
        """Return the metrics of a benchmark, its task's main one first."""
        return metrics_of(results_of(self.benchmarks[name]))

    def compared(self, name: str, metric: str, first: str, second: str) -> Comparison | None:
        """Return the comparison of two methods, from the view of the first; None if there is none.

        `metric` is one of the task, or the column of a probe's number.
        """
        for c in (*self.comparisons.get(name, ()), *self.probed.get(name, ())):
            if c.metric == metric and {c.first, c.second} == {first, second}:
                return c if c.first == first else turned(c)
        return None


def make_records(
    benchmarks: Sequence[Benchmark],
    comparisons: Mapping[str, Sequence[Comparison]],
    probed: Mapping[str, Sequence[Comparison]] | None = None,
) -> Records:
    """Return the records of benchmarks, in their order, with the comparisons of each by its name."""
    return Records({b.name: b for b in benchmarks}, comparisons, probed or {}, runs_frame(benchmarks))


def main_benchmark(benchmarks: Mapping[str, Benchmark], task: str) -> str:
    """Return the name of the benchmark that represents a task: `final_TASK` if it is complete, otherwise TASK."""
    final = f"final_{task}"
    return final if final in benchmarks and not benchmarks[final].missing else task


def results_of(benchmark: Benchmark) -> list[Result]:
    """Return the records of all finished runs of a benchmark."""
    return [cell.result for cells in benchmark.cells.values() for cell in cells.values()]


def runs_frame(benchmarks: Sequence[Benchmark]) -> pandas.DataFrame:
    """Return a row per planned run, indexed by benchmark, method and seed; see `softprompts.reports.pages.frame`.

    Further columns: `latency.NAME`, `attached.WHAT` and `detached.WHAT` (a method's change of the loss on general text,
    or of the score on another task), `drawn.DRAWSxTEMPERATURE.NAME` and `transfer.ROWS.METRIC`.
    """
    rows: list[dict[str, Any]] = []
    for benchmark in benchmarks:
        for method in benchmark.grid["methods"]:
            for seed in seeds_of(benchmark.grid, method):
                run = {"benchmark": benchmark.name, "method": method, "seed": seed, "label": benchmark.label(method)}
                if cell := benchmark.cells[method].get(seed):
                    rows.append(run | {"gap": ""} | numbers_of(cell.result) | _probed(cell))
                else:
                    reason = benchmark.failed[method].get(seed)
                    rows.append(run | {"gap": "no record" if reason is None else f"failed: {reason}"})
    index = ["benchmark", "method", "seed"]
    return pandas.DataFrame(rows, columns=None if rows else [*index, "label", "gap"]).set_index(index)


def _probed(cell: Cell) -> dict[str, float | None]:
    probes = cell.probes
    latency = dict(probes.get("latency") or {})
    if {"prompt_tokens", "virtual_tokens"} <= latency.keys():
        latency["read_tokens"] = latency["prompt_tokens"] + latency["virtual_tokens"]
    groups: dict[str, Mapping[str, Any]] = {"latency": latency}
    forgetting = probes.get("forgetting", {})
    measured = {"general": forgetting.get("general", {}), **forgetting.get("tasks", {})}
    for state in ("attached", "detached"):
        changed = {what: (values.get(state), values.get("base")) for what, values in measured.items()}
        groups[state] = {what: after - base for what, (after, base) in changed.items() if after is not None}
    if drawn := probes.get("sampling"):
        groups[drawn_name(drawn)] = {**drawn["metrics"], "agreement": drawn["agreement"]}
    for other in probes.get("transfer", []):
        groups[f"transfer.{kind_of(other['where'])}"] = other["metrics"]
    return flat(groups)


def drawn_name(drawn: Mapping[str, Any]) -> str:
    """Return the name of sampled predictions: "drawn.5x0.7" for five draws at temperature 0.7."""
    return f"drawn.{drawn.get('draws')}x{drawn.get('temperature')}"


def kind_of(where: Mapping[str, Sequence[Any]]) -> str:
    """Return the name of a filter's rows: "tweets, reviews"."""
    return ", ".join(str(value) for values in where.values() for value in values)


def compare_methods(
    benchmark: Benchmark, metrics: dict[str, Metric] | None = None, resamples: int | None = None
) -> list[Comparison]:
    """Compare all pairs of methods with finished runs, in the order of the grid, by their predictions.

    The default metrics are those of the runs' scores. By default there are 2,000 resamples, and more for many pairs.
    With 2,000, the smallest p is 0.001, and Holm over more than 50 pairs would make it larger than 0.05.
    """
    answers = {
        method: [[text.strip() for text in cell.answers] for _, cell in sorted(cells.items())]
        for method, cells in benchmark.cells.items()
        if cells
    }
    if metrics is None:
        metrics = recorded_metrics(results_of(benchmark))
    targets = [row["target"].strip() for row in benchmark.rows]
    return compare(answers, targets, metrics, resamples or max(2000, 100 * math.comb(len(answers), 2)))


def turned(comparison: Comparison) -> Comparison:
    """Return a comparison from the view of its second method."""
    c = comparison
    seeds = (c.seeds[1], c.seeds[0])
    return replace(c, first=c.second, second=c.first, seeds=seeds, difference=-c.difference, low=-c.high, high=-c.low)
