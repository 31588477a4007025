"""Figures of a benchmark: score against cost with the Pareto front, learning curves, what is unlearnt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import mean, stdev

from benchmarks.grid.settings import Benchmark, Cell
from benchmarks.report.style import EDGE, FONT, INK, OTHER, STYLES, Drawing, finish, new_figure
from benchmarks.report.tables import metrics_of, seeds_of

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

COSTS: dict[str, tuple[str, Callable[[Cell], float]]] = {
    "parameters": ("trained parameters", lambda cell: float(cell.result.parameters["trainable"])),
    "seconds": ("seconds of training", lambda cell: cell.result.cost["seconds_training"]),
}


def draw(benchmark: Benchmark) -> list[Drawing]:
    """Return the figures that the records of a benchmark are enough for. Close them with `close`."""
    with rc_context(FONT):
        return list(_drawings(benchmark))


def _drawings(benchmark: Benchmark) -> Iterator[Drawing]:
    trained = [m for m, runs in benchmark.cells.items() if any(c.result.training for c in runs.values())]
    metrics = metrics_of(benchmark)
    if trained and metrics:
        for cost, (name, _) in COSTS.items():
            said = (
                f"{metrics[0]} on test against {name}, mean and standard deviation over seeds. The line is the Pareto "
            )
            said += "front: no method on it is beaten in both."
            yield Drawing(f"{benchmark.name}_{cost}", said, against_cost(benchmark, metrics[0], cost))
    if trained:
        said = "Loss on validation rows while training, mean over seeds; the band goes from the lowest to the highest."
        yield Drawing(f"{benchmark.name}_curves", said, learning_curves(benchmark, trained))
    forgetting = [m for m, runs in benchmark.cells.items() if any(general_change(c) is not None for c in runs.values())]
    if forgetting:
        said = "What training adds to the loss on general text while the method is attached, one mark a seed."
        yield Drawing(f"{benchmark.name}_forgetting", said, unlearnt(benchmark, forgetting))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the (cost, value) that no other point beats, by rising cost.

    A point is beaten by one that costs no more and is worth no less, and differs in either.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def against_cost(benchmark: Benchmark, metric: str, cost: str) -> Figure:
    """Draw a metric against `parameters` or `seconds`, with the Pareto front. What costs nothing stands at the left."""
    label, read = COSTS[cost]
    methods = [m for m, runs in benchmark.cells.items() if runs]
    costs = [mean(read(cell) for cell in benchmark.cells[m].values()) for m in methods]
    values = [benchmark.values(m, metric) for m in methods]
    places = [_place(c, costs) for c in costs] if cost == "parameters" else costs
    right = max(places) + 0.06 * (max(places) - min(places) or 1.0)
    figure, axis = new_figure()
    front = pareto_front(list(zip(costs, (mean(v) for v in values), strict=True)))
    axis.step(
        [places[i] for i in front] + [right],
        [100 * mean(values[i]) for i in [*front, front[-1]]],
        where="post",
        color=INK,
        linewidth=1.2,
        linestyle="--",
        label="Pareto front",
        zorder=1,
    )
    for method, place, found in zip(methods, places, values, strict=True):
        colour, marker = STYLES.get(method, OTHER)
        deviation = 100 * stdev(found) if len(found) > 1 else None
        axis.errorbar(
            place,
            100 * mean(found),
            yerr=deviation,
            color=colour,
            marker=marker,
            **EDGE,
            linestyle="none",
            capsize=4,
            label=_name(benchmark, method),
        )
    if cost == "parameters":
        axis.set_xticks(range(math.floor(min(places)), math.floor(right) + 1))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _power(x, costs)))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_xlim(min(places) - 0.06 * (right - min(places)), right)
    axis.set_xlabel(label)
    axis.set_ylabel(f"{metric}, %")
    finish(figure, axis)
    return figure


def learning_curves(benchmark: Benchmark, methods: Sequence[str]) -> Figure:
    """Draw the validation loss over the updates of each method: the mean over seeds, and from lowest to highest."""
    figure, axis = new_figure()
    for method in methods:
        curves = [_losses(cell) for _, cell in sorted(benchmark.cells[method].items())]
        steps = sorted(set.intersection(*(set(c) for c in curves)))  # a run that stopped early ends the mean
        values = [[curve[step] for curve in curves] for step in steps]
        colour, marker = STYLES.get(method, OTHER)
        name = _name(benchmark, method)
        axis.plot(steps, [mean(v) for v in values], color=colour, marker=marker, markersize=6, label=name)
        axis.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, lw=0)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_xlabel("update")
    axis.set_ylabel("validation loss, nats a token")
    finish(figure, axis)
    return figure


def unlearnt(benchmark: Benchmark, methods: Sequence[str]) -> Figure:
    """Draw the change of the loss on general text that each method brings while it is attached, a mark a seed."""
    figure, axis = new_figure(height=1.4 + 0.5 * len(methods))
    for row, method in enumerate(methods):
        cells = [cell for _, cell in sorted(benchmark.cells[method].items())]
        changes = [change for cell in cells if (change := general_change(cell)) is not None]
        colour, marker = STYLES.get(method, OTHER)
        axis.plot(changes, [row] * len(changes), marker, color=colour, **EDGE)
    axis.axvline(0, color=INK, linewidth=1)
    axis.set_yticks(range(len(methods)), [_name(benchmark, method) for method in methods])
    axis.set_ylim(len(methods) - 0.5, -0.5)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.set_xlabel("change of loss, nats a token")
    axis.grid(axis="y", linewidth=0.4, color=INK, alpha=0.3)
    figure.tight_layout()
    return figure


def general_change(cell: Cell) -> float | None:
    """Return what a run adds to the loss on general text, in nats a token; None where that was not measured."""
    general = cell.probes.get("forgetting", {}).get("general")
    return None if general is None else general["attached"] - general["base"]


def _losses(cell: Cell) -> dict[float, float]:
    history = cell.result.training.get("history", [])
    return {entry["step"]: entry["validation_loss"] for entry in history if entry.get("validation_loss") is not None}


def _name(benchmark: Benchmark, method: str) -> str:
    seeds = seeds_of(benchmark, method)
    return benchmark.label(method) + (f" ({seeds} seeds)" if " of " in seeds else "")


def _place(cost: float, costs: Sequence[float]) -> float:
    """Return the power of ten of a cost; nothing at all stands a step to the left of the smallest."""
    return math.log10(cost) if cost > 0 else min((math.floor(math.log10(c)) for c in costs if c > 0), default=1) - 1


def _power(place: float, costs: Sequence[float]) -> str:
    """Return a power of ten for an axis: none, 10, 1k, 100M."""
    if 0 in costs and place <= _place(0, costs):
        return "none"
    value = 10.0**place
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
