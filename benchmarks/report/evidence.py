"""What records say to a claim: findings, a verdict made of them, or the list of the records that are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Literal

from benchmarks.grid.settings import Benchmark, Cell
from benchmarks.report.tables import gaps_of, is_shown, percent, points, probability

if TYPE_CHECKING:
    from softprompts.metrics.significance import Comparison

Word = Literal["does not hold", "no difference shown", "holds"]
WORDS: tuple[Word, ...] = ("does not hold", "no difference shown", "holds")  # the least flattering first
LEADS = {"does not hold": "Most clearly", "no difference shown": "Such as", "holds": "Least clearly"}


@dataclass(frozen=True)
class Records:
    """The benchmarks that claims are judged by, and the paired comparisons of each, by the benchmark's name."""

    benchmarks: Mapping[str, Benchmark]
    comparisons: Mapping[str, Sequence[Comparison]]


@dataclass(frozen=True)
class Finding:
    """What one comparison says to a claim, with its figures; a larger margin speaks more for the claim."""

    word: Word
    sentence: str
    margin: float


@dataclass(frozen=True)
class Verdict:
    """What the records of a task say to a claim. Where some are `missing` there is neither a word nor a finding."""

    task: str
    word: Word | None
    sentence: str
    findings: tuple[Finding, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """A number of a run beside its test score.

    Args:
        name: what it is called.
        read: its value of a run, None where it was not measured.
        show: the value as text, without its unit.
        unit: what follows it, with the space before it.
        less: whether less of it is better.
        exact: a count, of which one run says all; else it is measured, and takes several seeds.
    """

    name: str
    read: Callable[[Cell], float | None]
    show: Callable[[float], str]
    unit: str = ""
    less: bool = True
    exact: bool = False


def judge(task: str, findings: Sequence[Finding], missing: Sequence[str]) -> Verdict:
    """Return the verdict on a claim about every pair of methods.

    One finding against it is enough that it does not hold; it holds where all findings are for it. Where a record is
    missing nothing is said.
    """
    if missing:
        said = f"No verdict; missing: {'; '.join(missing)}."
        return Verdict(task, None, said, missing=tuple(missing))
    ranked = sorted(findings, key=lambda f: (WORDS.index(f.word), f.margin))
    first = ranked[0]
    if len(ranked) == 1:
        return Verdict(task, first.word, f"{first.word.capitalize()}: {first.sentence}.", (first,))
    said = f"{first.word.capitalize()} ({_counted(ranked)}). {LEADS[first.word]}: {first.sentence}."
    return Verdict(task, first.word, said, tuple(ranked))


def _counted(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each kind: "1 of 6 against it, 5 for it"."""
    names = {"does not hold": "against it", "no difference shown": "without a difference", "holds": "for it"}
    counts = [(sum(f.word == word for f in findings), names[word]) for word in WORDS]
    parts = [f"{count} {name}" for count, name in counts if count]
    parts[0] = parts[0].replace(" ", f" of {len(findings)} ", 1)
    return ", ".join(parts)


def by_comparisons(
    records: Records, task: str, metrics: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]
) -> Verdict:
    """Judge by paired comparisons on the test rows: each of `firsts` is to be higher than each of `seconds`."""
    missing = missing_runs(records, task, [*firsts, *seconds])
    if missing:
        return judge(task, [], missing)
    benchmark = records.benchmarks[task]
    findings = []
    for metric in metrics:
        for second in seconds:
            for first in firsts:
                found = _comparison(records.comparisons.get(task, ()), first, second, metric)
                if found is None or any(metric not in c.result.metrics for c in _cells(benchmark, (first, second))):
                    pair = f"{benchmark.label(first)} with {benchmark.label(second)}"
                    missing.append(f"a paired comparison of {pair} by {metric}")
                    continue
                comparison, sign = found
                means = {m: mean(benchmark.values(m, metric)) for m in (first, second)}
                findings.append(of_comparison(comparison, sign, benchmark.label, means))
    return judge(task, findings, missing)


def of_comparison(
    comparison: Comparison, sign: int, label: Callable[[str], str], values: Mapping[str, float]
) -> Finding:
    """Return what a paired comparison says to the claim that its first is higher; with `sign` −1, its second.

    `label` gives the names that are shown, `values` the number of each of the two.
    """
    pair = (comparison.first, comparison.second)[::sign]
    low, high = sorted((sign * comparison.low, sign * comparison.high))
    word: Word = "no difference shown"
    if is_shown(comparison):
        word = "holds" if sign * comparison.difference > 0 else "does not hold"
    sentence = (
        f"{comparison.metric}, {' against '.join(map(label, pair))}: "
        f"{' against '.join(f'{percent(values[name])} %' for name in pair)}, "
        f"{points(sign * comparison.difference)} points (95 % interval {points(low)} to {points(high)}, "
        f"adjusted p {probability(comparison.adjusted)})"
    )
    return Finding(word, sentence, sign * comparison.difference)


def _comparison(
    comparisons: Sequence[Comparison], first: str, second: str, metric: str
) -> tuple[Comparison, int] | None:
    """Return the comparison of two methods, and −1 where it was made the other way round."""
    for c in comparisons:
        if c.metric == metric and (c.first, c.second) in ((first, second), (second, first)):
            return c, 1 if c.first == first else -1
    return None


def by_seeds(
    records: Records, task: str, measures: Sequence[Measure], firsts: Sequence[str], seconds: Sequence[str]
) -> Verdict:
    """Judge by what each run measured: every seed of `firsts` is to be better than every seed of `seconds`."""
    missing = missing_runs(records, task, [*firsts, *seconds], measures)
    if missing:
        return judge(task, [], missing)
    benchmark = records.benchmarks[task]
    findings = [
        _by_seeds(benchmark, measure, first, second) for measure in measures for second in seconds for first in firsts
    ]
    return judge(task, findings, ())


def _by_seeds(benchmark: Benchmark, measure: Measure, first: str, second: str) -> Finding:
    ours, theirs = (values_of(benchmark, m, measure) for m in (first, second))
    lower, higher = max(ours) < min(theirs), min(ours) > max(theirs)
    enough = measure.exact or min(len(ours), len(theirs)) > 1
    word: Word = "no difference shown"
    if not enough:
        remark = "one seed shows no difference"
    elif lower or higher:
        word = "holds" if lower == measure.less else "does not hold"
        remark = ("lower" if lower else "higher") + ("" if measure.exact else " in every seed")
    else:
        remark = "the same" if set(ours) == set(theirs) else "the seeds overlap"
    pair = f"{benchmark.label(first)} against {benchmark.label(second)}"
    values = " against ".join(between(v, measure.show) + measure.unit for v in (ours, theirs))
    # Relative, so that measures of other units are ranked with it.
    apart = (mean(theirs) - mean(ours)) / (abs(mean(theirs)) + abs(mean(ours)) or 1)
    return Finding(word, f"{measure.name}, {pair}: {values}, {remark}", apart if measure.less else -apart)


def between(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Return a mean with the smallest and the largest value, where they differ as shown."""
    low, high = show(min(values)), show(max(values))
    return show(mean(values)) if low == high else f"{show(mean(values))} ({low} to {high})"


def values_of(benchmark: Benchmark, method: str, measure: Measure) -> list[float]:
    """Return a number of each run of a method that has it, in the order of the seeds."""
    return [v for cell in _cells(benchmark, (method,)) if (v := measure.read(cell)) is not None]


def _cells(benchmark: Benchmark, methods: Sequence[str]) -> list[Cell]:
    return [cell for method in methods for _, cell in sorted(benchmark.cells[method].items())]


def missing_runs(records: Records, task: str, methods: Sequence[str], measures: Sequence[Measure] = ()) -> list[str]:
    """Return what the records of a task lack: the benchmark, methods, runs, or numbers that runs should have."""
    benchmark = records.benchmarks.get(task)
    if benchmark is None:
        return [f"every record of {task}"]
    absent = [f"{m.replace('_', ' ')} (not in the grid)" for m in methods if m not in benchmark.cells]
    present = [m for m in methods if m in benchmark.cells]
    absent += [text for method in present for text in gaps_of(benchmark, method)]
    for method in present:
        for measure in measures:
            cells = _cells(benchmark, (method,))
            seeds = [str(cell.seed) for cell in cells if measure.read(cell) is None]
            if seeds:
                plural = "s" * (len(seeds) > 1)
                absent.append(f"{measure.name} of {benchmark.label(method)}, seed{plural} {', '.join(seeds)}")
    return absent


def detached(records: Records, task: str, methods: Sequence[str]) -> Verdict:
    """Judge whether the base model gives what it gave before, to the last bit, once each method is detached.

    It needs the loss on general text and the scores on other tasks, both before and detached.
    """
    general = Measure("loss on general text, detached", lambda c: _change(c, None), str)
    missing = missing_runs(records, task, methods, [general])
    if missing:
        return judge(task, [], missing)
    benchmark = records.benchmarks[task]
    findings = []
    for method in methods:
        changes = []
        for cell in _cells(benchmark, (method,)):
            others = [_change(cell, name) for name in cell.probes["forgetting"]["tasks"]]
            changes += [c for c in (_change(cell, None), *others) if c is not None]
        largest = max(abs(change) for change in changes)
        word: Word = "holds" if largest == 0 else "does not hold"
        change = "exactly zero" if largest == 0 else f"up to {largest:.3g}"
        sentence = f"{benchmark.label(method)}: {change} over {len(changes)} measurements"
        findings.append(Finding(word, sentence, -largest))
    return judge(task, findings, ())


def _change(cell: Cell, task: str | None) -> float | None:
    """Return what detaching leaves changed: of the loss on general text, or of the score on another task."""
    found = cell.probes.get("forgetting", {})
    measured = found.get("general", {}) if task is None else found["tasks"][task]
    value = measured.get("detached")
    return None if value is None else value - measured["base"]
