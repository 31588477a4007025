"""What a difference between methods is worth: the same test rows resampled for both, and the seeds of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from softprompts.metrics.scoring import Metric, compute_metrics, sampler

import numpy

LEVEL = 0.05  # a difference is shown below it


@dataclass(frozen=True)
class Comparison:
    """Two methods by one number on the same rows.

    difference: the mean over the seeds of the first less that of the second; the larger number is the better one.
    low, high: its 95 % interval; p: two-sided; adjusted: p by Holm over all pairs that were compared by this metric;
    seeds: how many the first had, and the second.
    """

    first: str
    second: str
    metric: str
    difference: float
    low: float
    high: float
    p: float
    adjusted: float
    rows: int
    seeds: tuple[int, int]


def compare(
    answers: Mapping[str, Sequence[list[str]]], targets: list[str], metrics: dict[str, Metric], resamples: int = 2000
) -> list[Comparison]:
    """Compare all pairs of methods by every number that the metrics report: metric by metric, pairs in their order.

    A two-level bootstrap: each resample draws rows, the same for all methods, so that what makes a row hard for both
    cancels (Koehn 2004), and for each method by itself seeds, so that the interval holds what another seed changes. Of
    n seeds n - 1 are drawn: the variance of their mean is then that of a mean over n seeds, where n draws would make it
    too small by (n - 1) / n (Rao and Wu 1988). The interval of few seeds is a rough one all the same: in a simulation
    without a difference, 200 rows, it missed zero in up to 11 % of the cases with three seeds and up to 26 % with two,
    the more often the more the seeds differed. Of a single seed only the rows are drawn.

    The interval is that of percentiles (Efron and Tibshirani 1993, chapter 13); p is twice the smaller share of
    resamples on the other side of zero, or on it, with one added to both counts (Davison and Hinkley 1997, section
    4.2), so that it is never below 2 / (resamples + 1).

    Args:
        answers: of each method, of each of its seeds, to each row; stripped, as `evaluation.answers_and_targets` does.
        targets: of the rows, stripped.
        metrics: additive or not; all of their numbers are the better the larger.
        resamples: how many; the time grows with them, with the runs and with the metrics' own.
    """
    generator = numpy.random.default_rng(0)
    # The rows that `scoring.intervals` draws, too.
    draws = [generator.integers(0, len(targets), len(targets)) for _ in range(resamples)]
    sides = {name: _resampled(runs, targets, metrics, draws, generator) for name, runs in answers.items()}
    comparisons = []
    for key in dict.fromkeys(key for side in sides.values() for key in side):
        pairs = list(combinations(sides, 2))
        # Rounded: means that are equal may differ by their last digit.
        drawn = [numpy.round(sides[a][key][1] - sides[b][key][1], 12) for a, b in pairs]
        values = [p_value(differences) for differences in drawn]
        for (a, b), differences, p, adjusted in zip(pairs, drawn, values, holm(values), strict=True):
            low, high = numpy.percentile(differences, [2.5, 97.5]).tolist()
            difference = round(sides[a][key][0] - sides[b][key][0], 12)
            seeds = (len(answers[a]), len(answers[b]))
            comparisons.append(Comparison(a, b, key, difference, low, high, p, adjusted, len(targets), seeds))
    return comparisons


def _resampled(
    runs: Sequence[list[str]],
    targets: list[str],
    metrics: dict[str, Metric],
    draws: Sequence[numpy.ndarray],
    generator: numpy.random.Generator,
) -> dict[str, tuple[float, numpy.ndarray]]:
    """Return each number's mean over the runs, and that of each resample of rows and runs, (resamples,)."""
    values = [compute_metrics(metrics, run, targets) for run in runs]
    drawn = {key: numpy.empty((len(draws), len(runs))) for key in values[0]}
    for column, run in enumerate(runs):
        for numbers in [sampler(metric, run, targets) for metric in metrics.values()]:
            for line, rows in enumerate(draws):
                for key, value in numbers(rows).items():
                    drawn[key][line, column] = value
    chosen = generator.integers(0, len(runs), (len(draws), max(1, len(runs) - 1)))
    return {
        key: (float(numpy.mean([v[key] for v in values])), numpy.take_along_axis(table, chosen, axis=1).mean(axis=1))
        for key, table in drawn.items()
    }


def p_value(differences: numpy.ndarray) -> float:
    """Return the two-sided p of no difference, from resampled differences: see `compare`."""
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(differences) + 1))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, in their order (Holm 1979): the k-th smallest of n times n - k + 1."""
    adjusted = [0.0] * len(values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(comparison: Comparison, label: Callable[[str], str] = str) -> str:
    """Return in one sentence which of the two is better and by how much, or that no difference is shown.

    `label` gives the name of a method that the sentence takes.
    """
    x = comparison
    first, second = label(x.first), label(x.second)
    p = f"{'adjusted ' if x.adjusted != x.p else ''}p {x.adjusted:.2g}, {x.rows} rows"
    if x.adjusted >= LEVEL:
        interval = f"{x.difference:+.4f}, 95 % interval {x.low:+.4f} to {x.high:+.4f}, {p}"
        return f"no difference shown in {x.metric} between {first} and {second} ({interval})"
    (better, low, high), worse = (
        ((first, x.low, x.high), second) if x.difference > 0 else ((second, -x.high, -x.low), first)
    )
    interval = f"95 % interval {low:.4f} to {high:.4f}, {p}"
    return f"{better} is better than {worse} in {x.metric} by {abs(x.difference):.4f} ({interval})"
