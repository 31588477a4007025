"""Figures of marks in rows: one a seed of each method, or one a domain that a method was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from textwrap import fill

from benchmarks.grid.settings import Benchmark
from benchmarks.report.evidence import values_of
from benchmarks.report.measures import transfer_metric, transfers
from benchmarks.report.style import EDGE, FONT, INK, STYLES, Drawing, finish, new_figure
from benchmarks.report.tables import metrics_of

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SERIES = tuple(STYLES[name] for name in ("few_shot", "prompt_tuning", "lora", "p_tuning", "full_finetuning"))


def draw_variants(benchmark: Benchmark) -> list[Drawing]:
    """Return a figure of the main metric of every method: a mark a seed, and a line at their mean."""
    methods = [m for m, runs in benchmark.cells.items() if runs]
    if not methods:
        return []
    metric = metrics_of(benchmark)[0]
    with rc_context(FONT):
        figure, axis = figure_of_rows([benchmark.label(m) for m in methods])
        for row, method in enumerate(methods):
            values = [100 * v for v in benchmark.values(method, metric)]
            colour, marker = SERIES[1]
            axis.plot(values, [row] * len(values), marker, color=colour, **EDGE)
            axis.plot([mean(values)] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=2)
        axis.set_xlabel(f"{metric}, %")
        figure.tight_layout()
    said = f"{metric} on test, one mark a seed; the line is their mean."
    return [Drawing(f"{benchmark.name}_variants", said, figure)]


def draw_transfer(benchmark: Benchmark) -> list[Drawing]:
    """Return a figure of the scores on rows that no method was trained on; none where they were not measured."""
    measures = transfers(benchmark)
    methods = [m for m in benchmark.cells if all(values_of(benchmark, m, measure) for measure in measures)]
    if not measures or not methods:
        return []
    metric = transfer_metric(benchmark)
    assert metric
    series = {"as trained": [mean(benchmark.values(m, metric)) for m in methods]}
    for measure in measures:
        series[measure.name.partition(" on ")[2]] = [mean(values_of(benchmark, m, measure)) for m in methods]
    with rc_context(FONT):
        figure, axis = figure_of_rows([benchmark.label(m) for m in methods], lines=len(series) // 2 + 1)
        for number, ((name, values), (colour, marker)) in enumerate(zip(series.items(), SERIES, strict=False)):
            shown = [100 * value for value in values]
            rows = [row + 0.18 * (number - (len(series) - 1) / 2) for row in range(len(methods))]  # none hides another
            axis.plot(shown, rows, marker, color=colour, **EDGE, label=name)
        axis.set_xlabel(f"{metric}, %")
        finish(figure, axis)
    said = f"{metric} on test rows of the kind that was trained on, and of kinds that were not; means over seeds."
    return [Drawing(f"{benchmark.name}_transfer", said, figure)]


def figure_of_rows(names: Sequence[str], lines: int = 0) -> tuple[Figure, Axes]:
    """Return a figure with a row a name, and room for so many lines of a legend."""
    figure, axis = new_figure(height=1.4 + 0.5 * len(names) + 0.3 * lines)
    # Long names would leave the marks no room.
    axis.set_yticks(range(len(names)), [fill(name, 24) for name in names])
    axis.margins(x=0.08)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.xaxis.set_major_locator(MaxNLocator(3))  # more would run into each other beside long names
    axis.grid(axis="y", linewidth=0.4, color=INK, alpha=0.3)
    return figure, axis
