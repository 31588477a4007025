"""Make further tables of benchmarks: all tasks in one, sweeps, and missing or outdated runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import Benchmark, in_words
from benchmarks.report.frame import Records
from benchmarks.tasks.record import TASKS
from softprompts.metrics.significance import Comparison
from softprompts.reports.pages import tables
from softprompts.reports.pages.frame import by_method, gaps, numbers
from softprompts.reports.pages.tables import NONE, Measure, markdown, metric

import yaml
from pandas import DataFrame

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "benchmarks" / "report"
SHOWN = {"trained": "trained parameters", "saved": "saved for the task", "training": "seconds of training"}


def read_config(name: str) -> Any:
    """Return the YAML file of the claims or of the papers."""
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))


def overview_table(records: Records) -> DataFrame:
    """Return a row per method: the main metric of each task, and the lowest and highest cost of a run."""
    tasks = [name for name in map(records.main, TASKS) if name in records.benchmarks]
    rows: dict[str, dict[str, str]] = {}
    for task in tasks:
        for main in map(metric, records.metrics(task)[:1]):
            for method, own in by_method(records.of(task)).items():
                rows.setdefault(method, {})[f"{task}: {main.name}"] = main.spread(own)
    for method, row in rows.items():
        own = records.runs.loc[tasks].xs(method, level="method", drop_level=False)
        row |= {SHOWN[cost.name]: _range(cost, own) for cost in tables.COSTS if cost.name in SHOWN}
    named = [
        {"method": _joined([records.label(t, m) for t in tasks if m in records.of(t).index]), **row}
        for m, row in rows.items()
    ]
    return DataFrame(named).fillna(NONE)


def _joined(labels: Sequence[str]) -> str:
    """Return labels of one method as one: "hard prompt, 8-shot or 4-shot"."""
    first, *others = dict.fromkeys(labels)
    return " or ".join([first, *(label.rpartition(", ")[2] for label in others)])


def _range(cost: Measure, runs: DataFrame) -> str:
    """Return the lowest and the highest of a cost; empty if there is none."""
    values = numbers(runs, cost.column)
    if not values.any():
        return NONE
    return " to ".join(dict.fromkeys((cost.of(values.min()), cost.of(values.max()))))


def results_table(records: Records, name: str) -> DataFrame:
    """Return the results of a benchmark, a row per method."""
    head = f"{name}, {len(records.benchmarks[name].rows)} test rows"
    return tables.results_table(records.of(name), records.metrics(name), head)


def results_markdown(records: Records, name: str) -> str:
    """Return the table of results, and lines on missing runs, data types and newer sweeps, if there are any."""
    missing, benchmark = gaps(records.of(name)), records.benchmarks[name]
    lines = [markdown(results_table(records, name)), f"Missing: {'; '.join(missing)}." if missing else ""]
    return "\n\n".join(line for line in (*lines, data_types(benchmark), outdated(benchmark)) if line)


def data_types(benchmark: Benchmark) -> str:
    """Return a sentence with the data type of each method's weights, if they differ."""
    found: dict[str, list[str]] = {}
    for method, cells in benchmark.cells.items():
        for said in dict.fromkeys(_data_type(cell.result.environment) for _, cell in sorted(cells.items())):
            found.setdefault(said, []).append(benchmark.label(method))
    if len(found) < 2:
        return ""
    named = "; ".join(f"{said}: {', '.join(methods)}" for said, methods in found.items())
    return f"Seconds and memory also depend on the data type of the weights ({named})."


def _data_type(environment: Mapping[str, Any]) -> str:
    mixed = environment.get("mixed_precision", "no")
    return f"{environment.get('dtype', 'unknown')}{'' if mixed == 'no' else f', multiplied in {mixed}'}"


def comparisons_table(benchmark: Benchmark, comparisons: Sequence[Comparison]) -> DataFrame:
    """Return a row per comparison: the first method's metric minus the second's, in percentage points."""
    return tables.comparisons_table(comparisons, labels_of(benchmark))


def labels_of(benchmark: Benchmark) -> dict[str, str]:
    """Return the name of each method in tables."""
    return {method: benchmark.label(method) for method in benchmark.grid["methods"]}


def outdated(benchmark: Benchmark) -> str:
    """Return a sentence with the methods whose sweep has since found a better choice than that of their runs."""
    better = "; ".join(f"{benchmark.label(m)} ({in_words(chosen)})" for m, chosen in benchmark.outdated.items())
    said = "Sweeps continued after these runs, and validation now has another choice"
    return f"{said}: {better}." if better else ""


def notes(records: Records) -> list[str]:
    """Return a line for each benchmark whose runs are older than its sweep's choice."""
    return [f"{b.name}: {said}" for b in records.benchmarks.values() if (said := outdated(b))]


def sweeps_table(benchmark: Benchmark) -> DataFrame:
    """Return a row per point of a sweep: the values, its best validation, and which one was chosen."""
    rows = [
        {
            "method": benchmark.label(method),
            "values": in_words(point["values"]),
            "best on validation": _best(point, sweep.get("by") or "validation"),
            "choice": "chosen" if point["values"] == sweep["chosen"] else "",
        }
        for method, sweep in benchmark.sweeps.items()
        for point in sweep["points"]
    ]
    return DataFrame(rows)


def _best(point: dict[str, Any], by: str) -> str:
    value = point.get("best_value")
    if value is None:
        return f"failed: {point.get('failure', 'no reason given')}"
    return f"{by} {-value if by == 'loss' else value:.4f}"  # a loss was negated for the choice
