"""Draw further figures of a benchmark: loss on general text, rows of other kinds, papers' experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from benchmarks.report.claims import transfer_metric, transfers
from benchmarks.report.frame import Records
from benchmarks.report.papers import clusters
from softprompts.evaluation.ensemble import CHOSEN, VOTE
from softprompts.reports.pages.figures import draw_runs, name_of
from softprompts.reports.pages.frame import numbers
from softprompts.reports.pages.style import (
    EDGE,
    FONT,
    INK,
    OTHER,
    SERIES,
    STYLES,
    Drawing,
    Styles,
    finish,
    new_figure,
    styles_of,
)
from softprompts.runs.record import Result

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame, Series


def draw(records: Records, name: str, paper: bool = False) -> list[Drawing]:
    """Return the figures for which a benchmark has enough records; a single one for a paper's grid.

    Close them with `close`.
    """
    with rc_context(FONT):
        return list(_variants(records, name) if paper else _drawings(records, name))


def _drawings(records: Records, name: str) -> Iterator[Drawing]:
    runs, metrics = records.of(name), records.metrics(name)
    results = {
        method: {seed: cell.result for seed, cell in cells.items()}
        for method, cells in records.benchmarks[name].cells.items()
    }
    recipes = {method: one["recipe"] for method, one in records.benchmarks[name].grid["methods"].items()}
    own = styles_of({method: recipe for method, recipe in recipes.items() if method not in STYLES})
    styles = {**STYLES, **own}  # variants of one recipe need colours of their own
    yield from draw_runs(name, runs, metrics[0] if metrics else None, results, styles)
    changes = numbers(runs, "attached.general")
    if len(changes):
        said = "Change of the loss on general text by training, while the method is attached, one mark per seed."
        yield Drawing(f"{name}_forgetting", said, _unlearnt(runs, changes, styles))
    yield from _transfer(records, name)


def _unlearnt(runs: DataFrame, changes: Series, styles: Styles) -> Figure:
    """Draw the change of the loss on general text while each method is attached, one mark per seed."""
    methods = changes.index.unique("method")
    figure, axis = new_figure(height=1.4 + 0.5 * len(methods))
    for row, method in enumerate(methods):
        _marks(axis, row, changes[method], styles.get(method, OTHER))
    axis.axvline(0, color=INK, linewidth=1)
    _rows(axis, [name_of(runs, method) for method in methods])
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.set_xlabel("change of loss, nats per token")
    figure.tight_layout()
    return figure


def _variants(records: Records, name: str) -> Iterator[Drawing]:
    """Draw the main metric of every method: one mark per seed, and a line at their mean."""
    runs = records.of(name)
    for metric in records.metrics(name)[:1]:
        values = 100 * numbers(runs, f"metric.{metric}")
        methods = values.index.unique("method")
        figure, axis = _figure_of_rows([records.label(name, m) for m in methods])
        for row, method in enumerate(methods):
            _marks(axis, row, values[method], SERIES[1])
            axis.plot([values[method].mean()] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=2)
        axis.set_xlabel(f"{metric}, %")
        figure.tight_layout()
        yield Drawing(f"{name}_variants", f"{metric} on test, one mark per seed; the line is their mean.", figure)


def _transfer(records: Records, name: str) -> Iterator[Drawing]:
    """Draw the scores on rows that no method was trained on, if they were measured."""
    measures, metric = transfers(records, name), transfer_metric(records, name)
    columns = {"as trained": f"metric.{metric}", **{m.name.partition(" on ")[2]: m.column for m in measures}}
    means = records.of(name).reindex(columns=[*columns.values()]).groupby(level="method", sort=False).mean().dropna()
    if not measures or means.empty:
        return
    lines = len(columns) // 2 + 1
    figure, axis = _figure_of_rows([records.label(name, m) for m in means.index], lines)
    for number, ((shown, column), (colour, marker)) in enumerate(zip(columns.items(), SERIES, strict=False)):
        rows = [row + 0.18 * (number - (len(columns) - 1) / 2) for row in range(len(means))]  # no mark hides another
        axis.plot(100 * means[column], rows, marker, color=colour, **EDGE, label=shown)
    axis.set_xlabel(f"{metric}, %")
    finish(figure, axis)
    said = f"{metric} on test rows of the training rows' kind and of other kinds; means over seeds."
    yield Drawing(f"{name}_transfer", said, figure)


def draw_ensemble(name: str, result: Result) -> Drawing:
    """Return a figure of each single prompt, their mean, the one chosen on validation, and the vote."""
    metric, notes = next(iter(result.metrics)), result.notes
    alone = [100 * member["metrics"][metric]["value"] for member in notes["members"]]
    rows = [
        (f"the {len(alone)} prompts", alone, "prompt_tuning"),
        ("their mean", [100 * notes["mean"][metric]["value"]], "few_shot"),
        (CHOSEN, [100 * notes["chosen"]["metrics"][metric]["value"]], "lora"),
        (VOTE, [100 * result.metrics[metric].value], "full_finetuning"),
    ]
    with rc_context(FONT):
        figure, axis = _figure_of_rows([name for name, *_ in rows])
        for row, (_, values, style) in enumerate(rows):
            _marks(axis, row, values, STYLES[style])
        axis.set_xlabel(f"{metric}, %")
        figure.tight_layout()
    said = f"{metric} on {result.metrics[metric].rows} test rows of {result.task}: each single prompt, and the vote."
    return Drawing(name, said, figure)


def draw_neighbours(name: str, record: Mapping[str, Any]) -> Drawing:
    """Return a figure with a mark per token: similarity to its nearest word, and between its nearest words."""
    series = (("learned", "learned tokens", "prompt_tuning"), ("random", "random vectors", "full_finetuning"))
    with rc_context(FONT):
        figure, axis = new_figure()
        for key, shown, style in series:
            colour, marker = STYLES[style]
            near = [one["similarities"][0] for one in record[key]]
            axis.plot(near, clusters(record[key]), marker, color=colour, **EDGE, label=shown)
        axis.set_xlabel("cosine with the nearest word")
        axis.set_ylabel(f"cosine between {record['k']} nearest words")
        finish(figure, axis)
    said = (
        f"Each virtual token of a trained prompt, and as many random vectors: similarity to the nearest word of the "
        f"vocabulary, and between the {record['k']} nearest words."
    )
    return Drawing(name, said, figure)


def _figure_of_rows(names: Sequence[str], lines: int = 0) -> tuple[Figure, Axes]:
    """Return a figure with a row per name, and room for this number of lines of a legend."""
    figure, axis = new_figure(height=1.4 + 0.5 * len(names) + 0.3 * lines)
    axis.margins(x=0.08)
    _rows(axis, [fill(name, 24) for name in names])  # long names would leave no room for the marks
    axis.xaxis.set_major_locator(MaxNLocator(3))  # more labels would overlap next to long names
    return figure, axis


def _marks(axis: Axes, row: int, values: Sequence[float], style: tuple[str, str]) -> None:
    colour, marker = style
    axis.plot(values, [row] * len(values), marker, color=colour, **EDGE)


def _rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", linewidth=0.4, color=INK, alpha=0.3)
