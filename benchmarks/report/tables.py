"""Tables of a benchmark, made from its records: results, paired comparisons, sweeps, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import text
from benchmarks.grid.settings import Benchmark, in_words
from benchmarks.report.frame import Records, by_method, gaps, metrics_of, numbers, recorded
from softprompts.metrics.significance import LEVEL, Comparison

from pandas import DataFrame

NONE = "–"  # in place of a number that no run has


def percent(share: float) -> str:
    """Return a share of 1 in per cent, without the sign."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """Return a difference of shares in points of per cent, with its sign."""
    return _signed(f"{100 * difference + 0.0:+.1f}")  # + 0.0: none at all is no negative zero


def probability(p: float) -> str:
    """Return a p value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _signed(number: str) -> str:
    return number.replace("-", "−")


FORMATS: dict[str, Callable[[float], str]] = {
    "percent": percent,
    "points": points,
    "signed": lambda x: _signed(f"{x:+.3f}"),
    "whole": lambda x: f"{x:,.0f}",
    "size": text.size,
    "tenths": lambda x: f"{x:.1f}",
    "hundredths": lambda x: f"{x:.2f}",
    "thousandths": lambda x: f"{1000 * x:.1f}",
}


@dataclass(frozen=True)
class Measure:
    """A number of a run.

    Args:
        name: what it is called.
        column: where `runs_frame` has it.
        show: name of the format in `FORMATS`.
        unit: what follows the number, with the space before it.
        less: whether less of it is better.
        exact: a count, of which one run says all; else it is measured, and takes several seeds.
    """

    name: str
    column: str
    show: str
    unit: str = ""
    less: bool = True
    exact: bool = False

    def of(self, value: float) -> str:
        """Return a value without its unit."""
        return FORMATS[self.show](value)

    def mean(self, runs: DataFrame) -> str:
        """Return the mean over the runs that have the number."""
        values = numbers(runs, self.column)
        return f"{self.of(values.mean())}{self.unit}" if len(values) else NONE

    def spread(self, runs: DataFrame) -> str:
        """Return "mean ± standard deviation" of a sample, the mean alone of one run or a count.

        If only some of the recorded runs have the number, it says how many.
        """
        values, known = numbers(runs, self.column), len(recorded(runs))
        if len(values) < 2 or self.exact:
            shown = self.mean(runs)
        else:
            shown = f"{self.of(values.mean())} ± {self.of(values.std())}{self.unit}"
        return f"{shown} ({len(values)} of {known} runs)" if 0 < len(values) < known else shown

    def between(self, runs: DataFrame) -> str:
        """Return the mean, with the smallest and the largest value if they differ as shown."""
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
    return text.markdown([*table.columns], table.itertuples(index=False))


def metric(name: str) -> Measure:
    """Return the measure of a metric of the test rows."""
    return Measure(name, f"metric.{name}", "percent", less=False)


def results_table(records: Records, name: str) -> DataFrame:
    """Return a row a method: metrics in per cent as mean ± standard deviation over seeds, and mean cost.

    The deviation is that of a sample, over the seeds that finished; one seed has none.
    """
    benchmark, runs = records.benchmarks[name], records.of(name)
    metrics = [metric(m) for m in metrics_of(benchmark)]
    head = f"{name}, {len(benchmark.rows)} test rows"
    baseline = {m.name: numbers(runs, f"majority.{m.name}") for m in metrics}
    rows = []
    if any(len(values) for values in baseline.values()):
        shown = {m: percent(values.iloc[0]) if len(values) else NONE for m, values in baseline.items()}
        rows.append({head: "majority class", **shown})
    for own in by_method(runs).values():
        cost = {m.name: m.mean(own) for m in COSTS}
        if cost["trained"] in ("0", NONE):
            cost |= dict.fromkeys(("saved", "training", "tokens/s"), "")
        rows.append(
            {head: own["label"].iloc[0], **{m.name: m.spread(own) for m in metrics}, "seeds": seeds_of(own), **cost}
        )
    columns = [head, *(m.name for m in metrics), "seeds", *(m.name for m in COSTS)]
    return DataFrame(rows, columns=columns).fillna("")


def measures_table(runs: DataFrame, measures: Sequence[Measure]) -> DataFrame:
    """Return a row a method, a column a measure."""
    rows = [
        {"method": own["label"].iloc[0], **{m.name: m.spread(own) for m in measures}}
        for own in by_method(runs).values()
    ]
    return DataFrame(rows)


def seeds_of(runs: DataFrame) -> str:
    """Return how many of a method's runs have a record: "3", or "2 of 3"."""
    finished, planned = len(recorded(runs)), len(runs)
    return str(planned) if finished == planned else f"{finished} of {planned}"


def results_markdown(records: Records, name: str) -> str:
    """Return the table of results, and below it a line that names what is missing, if anything is."""
    lines = [markdown(results_table(records, name))]
    if missing := gaps(records.of(name)):
        lines.append(f"Missing: {'; '.join(missing)}.")
    if records.benchmarks[name].outdated:
        lines.append(outdated(records.benchmarks[name]))
    return "\n\n".join(lines)


def outdated(benchmark: Benchmark) -> str:
    """Return a sentence that names the methods whose sweep has found a better choice than that of their runs."""
    better = "; ".join(f"{benchmark.label(m)} ({in_words(chosen)})" for m, chosen in benchmark.outdated.items())
    return f"Sweeps have gone on since these runs were made, and validation chooses otherwise now: {better}."


def notes(records: Records) -> list[str]:
    """Return a line for each benchmark that has runs older than its sweep's choice."""
    return [f"{b.name}: {outdated(b)}" for b in records.benchmarks.values() if b.outdated]


def comparisons_table(benchmark: Benchmark, comparisons: Sequence[Comparison]) -> DataFrame:
    """Return a row a comparison: the first method's metric less the second's, in points of per cent."""
    rows = [
        {
            "comparison": f"{benchmark.label(c.first)} − {benchmark.label(c.second)}",
            "metric": c.metric,
            "difference": points(c.difference),
            "95 % interval": f"{points(c.low)} to {points(c.high)}",
            "adjusted p": probability(c.adjusted),
            "shown": _higher(benchmark, c),
        }
        for c in comparisons
    ]
    return DataFrame(rows)


def _higher(benchmark: Benchmark, comparison: Comparison) -> str:
    if not is_shown(comparison):
        return "no difference shown"
    higher = comparison.first if comparison.difference > 0 else comparison.second
    return f"{benchmark.label(higher)} is higher"


def is_shown(comparison: Comparison) -> bool:
    """Say whether a comparison shows a difference: by the p that is adjusted for all comparisons made with it."""
    return comparison.adjusted < LEVEL and comparison.difference != 0


def sweeps_table(benchmark: Benchmark) -> DataFrame:
    """Return a row a point of a sweep: the values, its best validation, and which one was chosen."""
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
    return f"{by} {-value if by == 'loss' else value:.4f}"  # a loss chooses as its negative; people read it as it is
