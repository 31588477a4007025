"""Test differences between methods, by resampling common test rows and each method's seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

from softprompts.metrics.scoring import Metric, compute_metrics, sampler

import numpy

LEVEL = 0.05  # a difference counts as shown below it


@dataclass(frozen=True)
class Comparison:
    """The comparison of two methods by one number on the same rows.

    difference: the mean over seeds of the first method minus that of the second; a larger number is better. low, high:
    its 95 % interval; p: two-sided; adjusted: p by Holm over all pairs that were compared by this metric; seeds: number
    of seeds of the first method, and of the second.
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
    """Compare all pairs of methods by every number of the metrics: first by metric, then by pair.

    This is a two-level bootstrap. Each resample draws rows, the same for all methods, so that the difficulty of a row
    cancels (Koehn 2004). For each method it also draws seeds, so that the interval includes the variation between
    seeds. It draws n - 1 of n seeds. The variance of their mean is then that of a mean over n seeds; n draws would make
    it too small by (n - 1) / n (Rao and Wu 1988). Still, the interval from few seeds is rough. In a simulation without
    a difference, with 200 rows, it excluded zero in up to 11 % of the cases with three seeds, and in up to 26 % with
    two. The share was larger if seeds differed more. With a single seed, only rows are drawn.

    The interval is that of percentiles (Efron and Tibshirani 1993, chapter 13). p is twice the smaller share of
    resamples on the other side of zero, or on it, with one added to both counts (Davison and Hinkley 1997, section
    4.2), so it is never below 2 / (resamples + 1). If few rows differ, almost all
    resamples may be on one side. So p is also not below 2^(1 - d), the smallest p of a sign test of d such rows.

    Args:
        answers: predictions of each method and seed for each row; stripped, as by `evaluation.answers_and_targets`.
        targets: targets of the rows, stripped.
        metrics: metrics, additive or not, of which larger numbers are better; `not_compared` numbers are left out.
        resamples: number of resamples. The time grows with it, with the number of runs, and with the metrics' own time.
    """
    generator = numpy.random.default_rng(0)
    # The same rows as in `scoring.intervals`.
    draws = [generator.integers(0, len(targets), len(targets)) for _ in range(resamples)]
    sides = {name: _resampled(runs, targets, metrics, draws, generator) for name, runs in answers.items()}
    seeds = {name: len(runs) for name, runs in answers.items()}
    left_out = {key for metric in metrics.values() for key in getattr(metric.module, "not_compared", ())}
    keys = dict.fromkeys(key for side in sides.values() for key in side if key not in left_out)
    return [c for key in keys for c in _of_pairs(key, {m: side[key] for m, side in sides.items()}, len(targets), seeds)]


def compare_sums(
    sums: Mapping[str, Sequence[numpy.ndarray]], name: str, resamples: int = 2000, less: bool = False
) -> list[Comparison]:
    """Compare all pairs of methods by a quotient of two sums over the same rows: see `compare`.

    Args:
        sums: for each method, an array per seed, (rows, 2): the summands of each row, e.g. nats and tokens.
        name: the number's name in the comparisons.
        resamples: number of resamples.
        less: whether smaller is better. Then `difference` is that of the negative numbers.
    """
    if not sums:
        return []
    generator = numpy.random.default_rng(0)
    rows = len(next(iter(sums.values()))[0])
    draws = generator.integers(0, rows, (resamples, rows))
    sign = -1 if less else 1
    sides: dict[str, Side] = {}
    for method, runs in sums.items():
        values = [sign * run[:, 0].sum() / run[:, 1].sum() for run in runs]
        drawn = [sign * run[draws, 0].sum(axis=1) / run[draws, 1].sum(axis=1) for run in runs]
        alone = numpy.mean([run[:, 0] for run in runs], axis=0).round(12).tolist()
        chosen = _drawn_runs(resamples, len(runs), generator)
        means = numpy.take_along_axis(numpy.stack(drawn, axis=1), chosen, axis=1).mean(axis=1)
        sides[method] = (float(numpy.mean(values)), means, alone)
    return _of_pairs(name, sides, rows, {method: len(runs) for method, runs in sums.items()})


# A method's mean over the runs, its mean in each resample of rows and runs, and what each row has: see `_least_p`.
Side = tuple[float, numpy.ndarray, list[Any]]


def _of_pairs(key: str, sides: Mapping[str, Side], rows: int, seeds: Mapping[str, int]) -> list[Comparison]:
    """Return the comparison of every pair of methods by one number."""
    pairs = list(combinations(sides, 2))
    # Rounded, because equal means may differ in the last digit.
    drawn = [numpy.round(sides[a][1] - sides[b][1], 12) for a, b in pairs]
    values = [
        max(p_value(differences), _least_p(sides[a][2], sides[b][2]))
        for (a, b), differences in zip(pairs, drawn, strict=True)
    ]
    found = []
    for (a, b), differences, p, adjusted in zip(pairs, drawn, values, holm(values), strict=True):
        low, high = numpy.percentile(differences, [2.5, 97.5]).tolist()
        difference = round(sides[a][0] - sides[b][0], 12)
        found.append(Comparison(a, b, key, difference, low, high, p, adjusted, rows, (seeds[a], seeds[b])))
    return found


def _resampled(
    runs: Sequence[list[str]],
    targets: list[str],
    metrics: dict[str, Metric],
    draws: Sequence[numpy.ndarray],
    generator: numpy.random.Generator,
) -> dict[str, Side]:
    """Return each number's mean over the runs, its mean in each resample of rows and runs, and `_by_row`."""
    values = [compute_metrics(metrics, run, targets) for run in runs]
    drawn = {key: numpy.empty((len(draws), len(runs))) for key in values[0]}
    # Shares, because the numbers of runs may differ.
    shares = [{text: Fraction(n, len(row)) for text, n in Counter(row).items()} for row in zip(*runs, strict=True)]
    alone: dict[str, list[Any]] = dict.fromkeys(values[0], shares) | _by_row(runs, targets, metrics)
    for column, run in enumerate(runs):
        for numbers in [sampler(metric, run, targets) for metric in metrics.values()]:
            for line, rows in enumerate(draws):
                for key, value in numbers(rows).items():
                    drawn[key][line, column] = value
    chosen = _drawn_runs(len(draws), len(runs), generator)
    return {
        key: (
            float(numpy.mean([v[key] for v in values])),
            numpy.take_along_axis(table, chosen, axis=1).mean(axis=1),
            alone[key],
        )
        for key, table in drawn.items()
    }


def _drawn_runs(resamples: int, runs: int, generator: numpy.random.Generator) -> numpy.ndarray:
    """Return the runs that each resample draws, n - 1 of n."""
    return generator.integers(0, runs, (resamples, max(1, runs - 1)))


def _by_row(runs: Sequence[list[str]], targets: list[str], metrics: dict[str, Metric]) -> dict[str, list[Any]]:
    """Return the numbers of each row alone, as means over the runs, for metrics that are sums over rows."""
    found: dict[str, list[Any]] = {}
    for metric in (metric for metric in metrics.values() if metric.additive):
        numbers = [sampler(metric, run, targets) for run in runs]
        for row in range(len(targets)):
            alone = [of(numpy.array([row])) for of in numbers]
            for key in alone[0]:
                found.setdefault(key, []).append(round(sum(one[key] for one in alone) / len(runs), 12))
    return found


def _least_p(first: list[Any], second: list[Any]) -> float:
    """Return the smallest p of a sign test of two methods, from what each row has: all that differ are on one side."""
    differ = sum(a != b for a, b in zip(first, second, strict=True))
    return min(1.0, 2.0 ** (1 - differ))


def p_value(differences: numpy.ndarray) -> float:
    """Return the two-sided p of no difference, from resampled differences: see `compare`.

    It is 1 if one of them is not a number, as of a metric without rows of some kind.
    """
    if not numpy.isfinite(differences).all():
        return 1.0
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(differences) + 1))


def holm(values: Sequence[float]) -> list[float]:
    """Return adjusted p values in the same order (Holm 1979): the k-th smallest of n, times n - k + 1."""
    adjusted = [0.0] * len(values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(comparison: Comparison, label: Callable[[str], str] = str, than: str = "is better than") -> str:
    """Return a sentence: the better of the two and the difference, or that no difference is shown.

    Args:
        comparison: the two.
        label: returns the name of a method in the sentence.
        than: what the one with the larger number is.
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
    return f"{better} {than} {worse} in {x.metric} by {abs(x.difference):.4f} ({interval})"
