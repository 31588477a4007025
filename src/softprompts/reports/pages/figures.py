"""Draw figures of runs: a score against each cost with the Pareto front, and learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from softprompts.reports.pages.frame import numbers
from softprompts.reports.pages.style import (
    EDGE,
    FONT,
    INK,
    OTHER,
    STYLES,
    Drawing,
    Styles,
    finish,
    new_figure,
    show_losses,
)
from softprompts.reports.pages.tables import seeds_of
from softprompts.runs.record import Result

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator
from pandas import DataFrame, Series

COSTS = {
    "parameters": ("trained parameters", "parameters.trainable"),
    "seconds": ("seconds of training", "cost.seconds_training"),
    "memory": ("peak memory, GiB", "cost.peak_memory_gib"),
}


def draw_runs(
    name: str, runs: DataFrame, metric: str | None, results: Mapping[str, Mapping[int, Result]], styles: Styles = STYLES
) -> list[Drawing]:
    """Return the figures for which there are enough runs; close them with `close`.

    Args:
        name: beginning of the figures' names.
        runs: see `frame`.
        metric: the score; None if there is none.
        results: the finished runs of each method, by seed.
        styles: the style of each method.
    """
    trained = [m for m, own in results.items() if any(result.training for result in own.values())]
    if not trained:
        return []
    with rc_context(FONT):
        drawn = list(_against_costs(name, runs, metric, styles)) if metric else []
        curves = {method: _curves(results[method]) for method in trained}
        if any(len(losses) for losses in curves.values()):
            said = "Loss on validation rows in training, mean over seeds. The band shows the lowest and the highest."
            drawn.append(Drawing(f"{name}_curves", said, _learning_curves(runs, curves, styles)))
        return drawn


def _against_costs(name: str, runs: DataFrame, metric: str, styles: Styles) -> Iterator[Drawing]:
    for cost, (shown, column) in COSTS.items():
        known = runs.index.intersection(numbers(runs, column).index)
        if len(known.intersection(numbers(runs, f"metric.{metric}").index).unique("method")) > 1:
            said = (
                f"{metric} against {shown}, mean and standard deviation over seeds. The line is the Pareto front: for "
                "each method on it, no other method is better in both."
            )
            yield Drawing(f"{name}_{cost}", said, _against_cost(runs, metric, cost, styles), title=f"{name}: {metric}")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, value) that no other point beats, by rising cost.

    A point is beaten by another point with a cost not higher and a value not lower, if one of them differs.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def _against_cost(runs: DataFrame, metric: str, cost: str, styles: Styles) -> Figure:
    """Draw a metric against a cost, with the Pareto front. A method without the cost is on the left."""
    label, column = COSTS[cost]
    score = f"metric.{metric}"
    known = runs.dropna(subset=[score, column]).groupby(level="method", sort=False)
    costs, means, deviations = (known[c].agg(how) for c, how in ((column, "mean"), (score, "mean"), (score, "std")))
    places = [_place(c, [*costs]) for c in costs] if cost == "parameters" else [*costs]
    right = max(places) + 0.06 * (max(places) - min(places) or 1.0)
    figure, axis = new_figure()
    front = pareto_front([*zip(costs, means, strict=True)])
    axis.step(
        [places[i] for i in front] + [right],
        [100 * means.iloc[i] for i in [*front, front[-1]]],
        where="post",
        color=INK,
        linewidth=1.2,
        linestyle="--",
        label="Pareto front",
        zorder=1,
    )
    for method, place in zip(means.index, places, strict=True):
        colour, marker = styles.get(method, OTHER)
        axis.errorbar(
            place,
            100 * means[method],
            yerr=None if math.isnan(deviations[method]) else 100 * deviations[method],
            color=colour,
            marker=marker,
            **EDGE,
            linestyle="none",
            capsize=4,
            label=name_of(runs, method),
        )
    if cost == "parameters":
        _powers_of_ten(axis, [*costs], range(math.floor(min(places)), math.floor(right) + 1))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_xlim(min(places) - 0.06 * (right - min(places)), right)
    axis.set_xlabel(label)
    axis.set_ylabel(f"{metric}, %")
    finish(figure, axis)
    return figure


def _powers_of_ten(axis: Axes, costs: Sequence[float], ticks: Sequence[int]) -> None:
    """Label an axis of powers of ten: none, 10, 1k, 100M."""
    axis.set_xticks(ticks)
    nothing, power, free = _place(0, costs), EngFormatter(sep=""), 0 in costs
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "none" if free and x <= nothing else power(10.0**x)))


def _learning_curves(runs: DataFrame, curves: Mapping[str, DataFrame], styles: Styles) -> Figure:
    """Draw the validation loss over the steps of each method: the mean over seeds, and from lowest to highest."""
    figure, axis = new_figure()
    for method, losses in curves.items():
        colour, marker = styles.get(method, OTHER)
        steps = losses.index
        axis.plot(steps, losses.mean(axis=1), color=colour, marker=marker, markersize=6, label=name_of(runs, method))
        axis.fill_between(steps, losses.min(axis=1), losses.max(axis=1), color=colour, alpha=0.15, lw=0)
    show_losses(axis)
    finish(figure, axis)
    return figure


def _curves(results: Mapping[int, Result]) -> DataFrame:
    """Return the validation losses of a method, a row per step, a column per seed, up to the shortest run."""
    losses = {}
    for seed, result in sorted(results.items()):
        history = result.training.get("history", [])
        losses[seed] = Series(
            {e["step"]: e["validation_loss"] for e in history if e.get("validation_loss") is not None}, dtype=float
        )
    return DataFrame(losses).dropna().sort_index()


def name_of(runs: DataFrame, method: str) -> str:
    """Return the name of a method in a legend, with the number of finished seeds if some are missing."""
    own = runs.loc[[method]]
    seeds = seeds_of(own)
    # matplotlib omits a name that begins with "_" from a legend.
    label = f" {own['label'].iloc[0]}" if own["label"].iloc[0].startswith("_") else own["label"].iloc[0]
    return label + (f" ({seeds} seeds)" if " of " in seeds else "")


def _place(cost: float, costs: Sequence[float]) -> float:
    """Return the power of ten of a cost. A cost of zero is placed one step left of the smallest."""
    return math.log10(cost) if cost > 0 else min((math.floor(math.log10(c)) for c in costs if c > 0), default=1) - 1
