"""Make tables of runs: results, paired comparisons, and the scores and costs of single runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from softprompts.metrics.significance import LEVEL, Comparison
from softprompts.reports.pages.frame import by_method, numbers, recorded
from softprompts.reports.tables import markdown_table, size
from softprompts.runs.record import Result

from pandas import DataFrame

NONE = "–"  # in place of a number that no run has
UNITS = {"gib": " GiB", "kwh": " kWh"}
EXPLAINED = "Metrics in per cent, mean ± standard deviation over seeds. Cost is the mean over seeds."
PAIRED = (
    "The first method's score minus the second's on the same rows, in percentage points. The interval is that of "
    "one comparison. The adjusted p decides: it is corrected for all comparisons by the metric (Holm)."
)


def percent(share: float | None) -> str:
    """Return a share of 1 in per cent, without the sign. None in a record means a number that is not finite."""
    return NONE if share is None else f"{100 * share:.1f}"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return signed(f"{100 * difference + 0.0:+.1f}")  # + 0.0: avoids a negative zero


def probability(p: float) -> str:
    """Return a p value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def signed(number: str) -> str:
    """Return a number with a minus sign in place of a hyphen."""
    return number.replace("-", "−")


FORMATS: dict[str, Callable[[float], str]] = {
    "percent": percent,
    "points": points,
    "signed": lambda x: signed(f"{x:+.3f}"),
    "whole": lambda x: f"{x:,.0f}",
    "size": size,
    "tenths": lambda x: f"{x:.1f}",
    "hundredths": lambda x: f"{x:.2f}",
    "thousandths": lambda x: f"{1000 * x:.1f}",
}


@dataclass(frozen=True)
class Measure:
    """A number of a run.

    Args:
        name: its name.
        column: its column in the table of runs.
        show: name of the format in `FORMATS`.
        unit: text after the number, with the space before it.
        less: whether smaller is better.
        exact: whether it is a count, which is the same in every run. Other numbers are measured, over several seeds.
        rows: whether it is a mean over a few rows, so that two runs may differ by the choice of rows.
    """

    name: str
    column: str
    show: str
    unit: str = ""
    less: bool = True
    exact: bool = False
    rows: bool = False

    def of(self, value: float) -> str:
        """Return a value without its unit."""
        return FORMATS[self.show](value)

    def mean(self, runs: DataFrame) -> str:
        """Return the mean over the runs that have the number."""
        values = numbers(runs, self.column)
        return f"{self.of(values.mean())}{self.unit}" if len(values) else NONE

    def spread(self, runs: DataFrame) -> str:
        """Return "mean ± standard deviation" of a sample; for a count or a single run only the mean.

        If only some of the recorded runs have the number, the text includes their number.
        """
        values, known = numbers(runs, self.column), len(recorded(runs))
        if len(values) < 2 or self.exact:
            shown = self.mean(runs)
        else:
            shown = f"{self.of(values.mean())} ± {self.of(values.std())}{self.unit}"
        return f"{shown} ({len(values)} of {known} runs)" if 0 < len(values) < known else shown

    def between(self, runs: DataFrame) -> str:
        """Return the mean, with the smallest and the largest value if their texts differ."""
        values = numbers(runs, self.column)
        low, high = self.of(values.min()), self.of(values.max())
        return self.of(values.mean()) + (f" ({low} to {high})" if low != high else "") + self.unit


COSTS = (
    Measure("trained", "parameters.trainable", "whole"),
    Measure("saved", "cost.adapter_bytes", "size"),
    Measure("training", "cost.seconds_training", "whole", " s"),
    Measure("tokens/s", "cost.training_tokens_per_second", "whole"),
    Measure("memory", "cost.peak_memory_gib", "tenths", " GiB"),
)


def markdown(table: DataFrame) -> str:
    """Return a table of text as Markdown."""
    return markdown_table([*table.columns], table.itertuples(index=False))


def metric(name: str) -> Measure:
    """Return the measure of a metric of the test rows."""
    return Measure(name, f"metric.{name}", "percent", less=False)


def results_table(runs: DataFrame, metrics: Sequence[str], head: str) -> DataFrame:
    """Return a row per method: metrics in per cent as mean ± standard deviation over seeds, and mean cost.

    The deviation is that of a sample, over finished seeds; one seed has none. `head` is the methods' heading.
    """
    shown = [metric(name) for name in metrics]
    rows = [{head: "majority class", **baseline}] if (baseline := _majority(runs, metrics)) else []
    for own in by_method(runs).values():
        scores = {m.name: m.spread(own) for m in shown}
        rows.append({head: own["label"].iloc[0], **scores, "seeds": seeds_of(own), **costs_of(own)})
    return DataFrame(rows, columns=[head, *metrics, "seeds", *(m.name for m in COSTS)]).fillna("")


def _majority(runs: DataFrame, metrics: Sequence[str]) -> dict[str, str]:
    """Return the scores of always predicting the majority class; empty if no run recorded them."""
    found = {name: numbers(runs, f"majority.{name}") for name in metrics}
    if not any(map(len, found.values())):
        return {}
    return {name: percent(values.iloc[0]) if len(values) else NONE for name, values in found.items()}


def costs_of(runs: DataFrame) -> dict[str, str]:
    """Return the mean of each of `COSTS` over a method's runs; costs of training are empty without training."""
    cost = {m.name: m.mean(runs) for m in COSTS}
    return cost | (dict.fromkeys(("saved", "training", "tokens/s"), "") if cost["trained"] in ("0", NONE) else {})


def measures_table(runs: DataFrame, measures: Sequence[Measure]) -> DataFrame:
    """Return a row per method, a column per measure."""
    found = by_method(runs).values()
    return DataFrame([{"method": own["label"].iloc[0], **{m.name: m.spread(own) for m in measures}} for own in found])


def seeds_of(runs: DataFrame) -> str:
    """Return the number of a method's runs with a record: "3", or "2 of 3"."""
    finished, planned = len(recorded(runs)), len(runs)
    return str(planned) if finished == planned else f"{finished} of {planned}"


def comparisons_table(comparisons: Sequence[Comparison], labels: Mapping[str, str]) -> DataFrame:
    """Return a row per comparison: the first method's metric minus the second's, in percentage points."""
    rows = [
        {
            "comparison": f"{labels[c.first]} − {labels[c.second]}",
            "metric": c.metric,
            "difference": points(c.difference),
            "95 % interval": f"{points(c.low)} to {points(c.high)}",
            "adjusted p": probability(c.adjusted),
            "shown": f"{labels[c.first if c.difference > 0 else c.second]} is higher"
            if is_shown(c)
            else "no difference shown",
        }
        for c in comparisons
    ]
    return DataFrame(rows)


def is_shown(comparison: Comparison) -> bool:
    """Return whether a comparison shows a difference, by its p adjusted for all comparisons made with it."""
    return comparison.adjusted < LEVEL and comparison.difference != 0


def scores_table(result: Result) -> DataFrame:
    """Return a row per metric of a single run."""
    rows = [(m, percent(x.value), f"{percent(x.low)} to {percent(x.high)}") for m, x in result.metrics.items()]
    return DataFrame(rows, columns=["metric", "test, %", "95 % interval over rows"])


def costs_table(result: Result) -> DataFrame:
    """Return a row per cost of a single run, and per count of its parameters."""
    rows = [(_cost_name(key), _cost_value(key, value)) for key, value in result.cost.items() if value is not None]
    rows += [(f"parameters, {key}", f"{count:,}") for key, count in result.parameters.items()]
    return DataFrame(rows, columns=["cost", ""])


def _cost_name(key: str) -> str:
    return " ".join(word for word in key.split("_") if word not in (*UNITS, "bytes"))


def _cost_value(key: str, value: float) -> str:
    if key.endswith("bytes"):
        return f"{size(value)} ({value:,.0f} bytes)"
    unit = UNITS.get(key.rpartition("_")[2], "")
    return f"{value:,.0f}{unit}" if value >= 1000 else f"{value:.4g}{unit}"
