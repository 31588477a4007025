"""Tables of a benchmark, made from its records: results, paired comparisons, sweeps, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from benchmarks.grid.settings import Benchmark, Cell, in_words

if TYPE_CHECKING:
    from softprompts.metrics.significance import Comparison

ALPHA = 0.05  # of the adjusted p, above which no difference is shown
NONE = "none recorded"


@dataclass(frozen=True)
class Table:
    """A table as plain text. The first cell of a row names it; all rows are as long as the head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def markdown(table: Table) -> str:
    """Return a table as Markdown."""
    rows = [table.head, ("---",) * len(table.head), *table.rows]
    return "\n".join(f"| {' | '.join(' '.join(c.split()).replace('|', chr(92) + '|') for c in row)} |" for row in rows)


def metrics_of(benchmark: Benchmark) -> list[str]:
    """Return the names of the metrics that all finished runs report, the task's main one first."""
    cells = [cell for runs in benchmark.cells.values() for cell in runs.values()]
    return [m for m in cells[0].result.metrics if all(m in c.result.metrics for c in cells)] if cells else []


def results_markdown(benchmark: Benchmark) -> str:
    """Return the table of results, and below it a line that names what is missing, where anything is."""
    lines = [markdown(results_table(benchmark))]
    if missing := gaps(benchmark):
        lines.append(f"Missing: {'; '.join(missing)}.")
    if benchmark.outdated:
        lines.append(outdated(benchmark))
    return "\n\n".join(lines)


def results_table(benchmark: Benchmark) -> Table:
    """Return a row a method: metrics in per cent as mean ± standard deviation over seeds, and mean cost.

    The deviation is that of a sample, over the seeds that finished; one seed has none.
    """
    metrics = metrics_of(benchmark)
    head = (f"{benchmark.name}, {len(benchmark.rows)} test rows", *metrics)
    cost = ("seeds", "trained", "saved", "training", "tokens/s", "memory")
    rows = [_majority(benchmark, metrics, len(cost))] if metrics else []
    rows += [_row(benchmark, method, metrics) for method in benchmark.grid["methods"]]
    return Table((*head, *cost), tuple(row for row in rows if row))


def _majority(benchmark: Benchmark, metrics: Sequence[str], costs: int) -> tuple[str, ...]:
    for runs in benchmark.cells.values():
        for cell in runs.values():
            if found := cell.result.baselines.get("majority_class"):
                values = [percent(found[m].value) if m in found else "" for m in metrics]
                return ("majority class", *values, *("",) * costs)
    return ()


def _row(benchmark: Benchmark, method: str, metrics: Sequence[str]) -> tuple[str, ...]:
    values = [spread(benchmark.values(method, m), percent) for m in metrics]
    parameters, saved, seconds, speed, memory = (over_seeds(benchmark, method, *c) for c in COSTS)
    trained = parameters not in ("0", NONE)
    cost = (saved, seconds, speed) if trained else ("", "", "")
    return (benchmark.label(method), *values, seeds_of(benchmark, method), parameters, *cost, memory)


def seeds_of(benchmark: Benchmark, method: str) -> str:
    """Return how many seeds of a method finished: "3", or "2 of 3"."""
    finished, planned = len(benchmark.cells[method]), len(benchmark.grid["seeds"])
    return str(planned) if finished == planned else f"{finished} of {planned}"


def percent(share: float) -> str:
    """Return a share of 1 in per cent, without the sign."""
    return f"{100 * share:.1f}"


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Return "mean ± standard deviation", the mean alone of one value, or that there is none."""
    if not values:
        return NONE
    return f"{show(mean(values))} ± {show(stdev(values))}" if len(values) > 1 else show(values[0])


def cost(key: str) -> Callable[[Cell], float | None]:
    """Return what reads a number of a run's cost, None where it was not measured."""
    return lambda cell: cell.result.cost.get(key)


def trained_parameters(cell: Cell) -> float:
    """Return how many numbers a run trained."""
    return float(cell.result.parameters["trainable"])


def size(count: float) -> str:
    """Return bytes for people."""
    if count < 2**20:
        return f"{count / 1024:.0f} KiB" if count else "0"
    return f"{count / 2**20:.1f} MiB"


def over_seeds(
    benchmark: Benchmark, method: str, read: Callable[[Cell], float | None], show: Callable[[float], str]
) -> str:
    """Return the mean of a number over the runs of a method that have it, shown."""
    values = [v for _, cell in sorted(benchmark.cells[method].items()) if (v := read(cell)) is not None]
    return show(mean(values)) if values else NONE


COSTS: tuple[tuple[Callable[[Cell], float | None], Callable[[float], str]], ...] = (
    (trained_parameters, lambda n: f"{n:,.0f}"),
    (cost("adapter_bytes"), size),
    (cost("seconds_training"), lambda s: f"{s:.0f} s"),
    (cost("training_tokens_per_second"), lambda n: f"{n:.0f}"),
    (cost("peak_memory_gib"), lambda n: f"{n:.1f} GiB"),
)


def gaps(benchmark: Benchmark) -> list[str]:
    """Return each method that lacks runs, with the seeds: "LoRA, seed 1 (failed: out of memory)"."""
    return [text for method in benchmark.grid["methods"] for text in gaps_of(benchmark, method)]


def outdated(benchmark: Benchmark) -> str:
    """Return a sentence that names the methods whose sweep has found a better choice than that of their runs."""
    better = "; ".join(f"{benchmark.label(m)} ({in_words(chosen)})" for m, chosen in benchmark.outdated.items())
    return f"Sweeps have gone on since these runs were made, and validation chooses otherwise now: {better}."


def notes(benchmarks: Sequence[Benchmark]) -> list[str]:
    """Return a line for each benchmark that has runs older than its sweep's choice."""
    return [f"{b.name}: {outdated(b)}" for b in benchmarks if b.outdated]


def gaps_of(benchmark: Benchmark, method: str) -> list[str]:
    """Return the runs that a method lacks: those that were not made together, each that failed with its reason."""
    seeds = [seed for name, seed in benchmark.missing if name == method]
    failed = benchmark.failed[method]
    absent = [str(seed) for seed in seeds if seed not in failed]
    lines = []
    if absent:
        lines.append(f"{benchmark.label(method)}, seed{'s' * (len(absent) > 1)} {', '.join(absent)} (no record)")
    return lines + [f"{benchmark.label(method)}, seed {s} (failed: {failed[s]})" for s in seeds if s in failed]


def comparisons_markdown(benchmark: Benchmark, comparisons: Sequence[Comparison]) -> str:
    """Return the paired comparisons as a Markdown table."""
    return markdown(comparisons_table(benchmark, comparisons))


def comparisons_table(benchmark: Benchmark, comparisons: Sequence[Comparison]) -> Table:
    """Return a row a comparison: the first method's metric less the second's, in points of per cent."""
    rows = [
        (
            f"{benchmark.label(c.first)} − {benchmark.label(c.second)}",
            c.metric,
            points(c.difference),
            f"{points(c.low)} to {points(c.high)}",
            probability(c.adjusted),
            outcome(benchmark, c),
        )
        for c in comparisons
    ]
    head = ("comparison", "metric", "difference", "95 % interval", "adjusted p", "shown")
    return Table(head, tuple(rows))


def outcome(benchmark: Benchmark, comparison: Comparison) -> str:
    """Return which method is higher, or that no difference is shown."""
    if not is_shown(comparison):
        return "no difference shown"
    higher = comparison.first if comparison.difference > 0 else comparison.second
    return f"{benchmark.label(higher)} is higher"


def is_shown(comparison: Comparison) -> bool:
    """Say whether a comparison shows a difference: by the p that is adjusted for all comparisons made with it."""
    return comparison.adjusted < ALPHA and comparison.difference != 0


def points(difference: float) -> str:
    """Return a difference of shares in points of per cent, with its sign."""
    return f"{100 * difference + 0.0:+.1f}".replace("-", "−")  # + 0.0: none at all is no negative zero


def probability(p: float) -> str:
    """Return a p value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def sweeps_table(benchmark: Benchmark) -> Table:
    """Return a row a point of a sweep: the values, its best validation, and which one was chosen."""
    rows = []
    for method, sweep in benchmark.sweeps.items():
        by = sweep.get("by") or "validation"
        for point in sweep["points"]:
            value = point.get("best_value")
            # A loss chooses as its negative; people read it as it is.
            best = f"failed: {point.get('failure', 'no reason given')}" if value is None else _best(value, by)
            mark = "chosen" if point["values"] == sweep["chosen"] else ""
            rows.append((benchmark.label(method), values_of(point["values"]), best, mark))
    return Table(("method", "values", "best on validation", "choice"), tuple(rows))


def _best(value: float, by: str) -> str:
    return f"{by} {-value if by == 'loss' else value:.4f}"


def values_of(settings: dict[str, Any]) -> str:
    """Return the settings of a point: "learning_rate 0.01, num_virtual_tokens 20"."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in settings.items())
