"""Make a pandas table of runs: a row per run, a column per number.

Rows are indexed by method and seed. Two columns are text: `label`, the method's name in tables, and `gap`, the reason
why a run has no record, which is empty if it has one. A number that a run did not measure is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from softprompts.metrics.scoring import Metric, load_metrics
from softprompts.runs.record import Result
from softprompts.tasks.schemas import read_metric_data, read_schema

from pandas import DataFrame, Series


def numbers_of(result: Result) -> dict[str, float]:
    """Return the numbers of a record: `metric.NAME`, `majority.NAME` (the baseline), `parameters.NAME`, `cost.NAME`."""
    return flat(
        {
            "metric": {name: x.value for name, x in result.metrics.items()},
            "majority": {name: x.value for name, x in result.baselines.get("majority_class", {}).items()},
            "parameters": result.parameters,
            "cost": result.cost,
        }
    )


def flat(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return groups of numbers as one group, each named GROUP.NAME."""
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def numbers(runs: DataFrame, column: str) -> Series:
    """Return the measured numbers of a column, in the order of the runs; empty if no run has the column."""
    return (runs[column] if column in runs else Series(index=runs.index, dtype=float)).dropna()


def by_method(runs: DataFrame) -> dict[str, DataFrame]:
    """Return the runs of each method, in their order."""
    return dict(iter(runs.groupby(level="method", sort=False)))


def recorded(runs: DataFrame) -> DataFrame:
    """Return the runs that have a record."""
    return runs[runs["gap"] == ""]


def gaps(runs: DataFrame) -> list[str]:
    """Return the missing runs in words: "LoRA, seeds 1, 2 (failed: out of memory)"."""
    lacking = runs[runs["gap"] != ""].reset_index()
    if lacking.empty:
        return []
    groups = lacking.groupby(["method", "label", "gap"], sort=False)["seed"]
    return [f"{label}, {seeds_in_words(seeds)} ({gap})" for (_, label, gap), seeds in groups]


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Return "seed 1", or "seeds 1, 2"."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def metrics_of(results: Iterable[Result]) -> list[str]:
    """Return every metric of any run, the task's main metric first. Older runs may lack some."""
    reported = sorted((list(result.metrics) for result in results), key=len, reverse=True)
    return list(dict.fromkeys(name for names in reported for name in names))


def recorded_metrics(results: Sequence[Result]) -> dict[str, Metric]:
    """Load the metrics of all runs.

    Raises:
        UserError: the metrics, the schema or the data for metrics of their task no longer exist.
    """
    tasks = [result.settings["task"] for result in results]
    names = list(dict.fromkeys(name for task in tasks for name in task.get("metrics", ())))
    schema, data = (next((t[key] for t in tasks if t.get(key)), None) for key in ("schema", "metric_data"))
    return load_metrics(names, read_schema(schema) if schema else None, read_metric_data(data) if data else None)
