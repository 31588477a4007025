"""Figures of a benchmark: score against cost with the Pareto front, learning curves, and marks in rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from benchmarks.grid.settings import Benchmark, Cell
from benchmarks.report.claims import transfer_metric, transfers
from benchmarks.report.frame import Records, metrics_of, numbers
from benchmarks.report.papers import clusters
from benchmarks.report.style import EDGE, FONT, INK, OTHER, SERIES, STYLES, Drawing, finish, new_figure, show_losses
from benchmarks.report.tables import seeds_of
from softprompts.evaluation.ensemble import CHOSEN, VOTE
from softprompts.runs.record import Result

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator
from pandas import DataFrame, Series

COSTS = {
    "parameters": ("trained parameters", "parameters.trainable"),
    "seconds": ("seconds of training", "cost.seconds_training"),
}


def draw(records: Records, name: str, paper: bool = False) -> list[Drawing]:
    """Return the figures that the records of a benchmark are enough for; one only of a paper's grid.

    Close them with `close`.
    """
    with rc_context(FONT):
        return list(_variants(records, name) if paper else _drawings(records, name))


def _drawings(records: Records, name: str) -> Iterator[Drawing]:
    benchmark, runs = records.benchmarks[name], records.of(name)
    trained = [m for m, cells in benchmark.cells.items() if any(c.result.training for c in cells.values())]
    metrics = metrics_of(benchmark)
    if trained and metrics:
        for cost, (shown, _) in COSTS.items():
            said = (
                f"{metrics[0]} on test against {shown}, mean and standard deviation over seeds. The line is the Pareto "
                "front: no method on it is beaten in both."
            )
            yield Drawing(f"{name}_{cost}", said, _against_cost(runs, metrics[0], cost))
    if trained:
        said = "Loss on validation rows while training, mean over seeds; the band goes from the lowest to the highest."
        yield Drawing(f"{name}_curves", said, _learning_curves(benchmark, runs, trained))
    changes = numbers(runs, "attached.general")
    if len(changes):
        said = "What training adds to the loss on general text while the method is attached, one mark a seed."
        yield Drawing(f"{name}_forgetting", said, _unlearnt(runs, changes))
    yield from _transfer(records, name)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the (cost, value) that no other point beats, by rising cost.

    A point is beaten by one that costs no more and is worth no less, and differs in either.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def _against_cost(runs: DataFrame, metric: str, cost: str) -> Figure:
    """Draw a metric against a cost, with the Pareto front. What costs nothing stands at the left."""
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
        colour, marker = STYLES.get(method, OTHER)
        axis.errorbar(
            place,
            100 * means[method],
            yerr=None if math.isnan(deviations[method]) else 100 * deviations[method],
            color=colour,
            marker=marker,
            **EDGE,
            linestyle="none",
            capsize=4,
            label=_name(runs, method),
        )
    if cost == "parameters":
        axis.set_xticks(range(math.floor(min(places)), math.floor(right) + 1))
        nothing, power = _place(0, [*costs]), EngFormatter(sep="")  # none, 10, 1k, 100M
        free = (costs == 0).any()
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "none" if free and x <= nothing else power(10.0**x)))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_xlim(min(places) - 0.06 * (right - min(places)), right)
    axis.set_xlabel(label)
    axis.set_ylabel(f"{metric}, %")
    finish(figure, axis)
    return figure


def _learning_curves(benchmark: Benchmark, runs: DataFrame, methods: Sequence[str]) -> Figure:
    """Draw the validation loss over the updates of each method: the mean over seeds, and from lowest to highest."""
    figure, axis = new_figure()
    for method in methods:
        # Rows are updates, columns seeds; a run that stopped early ends the mean.
        losses = DataFrame({seed: _losses(cell) for seed, cell in sorted(benchmark.cells[method].items())})
        losses = losses.dropna().sort_index()
        colour, marker = STYLES.get(method, OTHER)
        axis.plot(
            losses.index, losses.mean(axis=1), color=colour, marker=marker, markersize=6, label=_name(runs, method)
        )
        axis.fill_between(losses.index, losses.min(axis=1), losses.max(axis=1), color=colour, alpha=0.15, lw=0)
    show_losses(axis)
    finish(figure, axis)
    return figure


def _losses(cell: Cell) -> Series:
    history = cell.result.training.get("history", [])
    return Series({e["step"]: e["validation_loss"] for e in history if e.get("validation_loss") is not None})


def _unlearnt(runs: DataFrame, changes: Series) -> Figure:
    """Draw the change of the loss on general text that each method brings while it is attached, a mark a seed."""
    methods = changes.index.unique("method")
    figure, axis = new_figure(height=1.4 + 0.5 * len(methods))
    for row, method in enumerate(methods):
        _marks(axis, row, changes[method], STYLES.get(method, OTHER))
    axis.axvline(0, color=INK, linewidth=1)
    _rows(axis, [_name(runs, method) for method in methods])
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.set_xlabel("change of loss, nats a token")
    figure.tight_layout()
    return figure


def _variants(records: Records, name: str) -> Iterator[Drawing]:
    """Draw the main metric of every method: a mark a seed, and a line at their mean."""
    runs = records.of(name)
    for metric in metrics_of(records.benchmarks[name])[:1]:
        values = 100 * numbers(runs, f"metric.{metric}")
        methods = values.index.unique("method")
        figure, axis = _figure_of_rows([records.label(name, m) for m in methods])
        for row, method in enumerate(methods):
            _marks(axis, row, values[method], SERIES[1])
            axis.plot([values[method].mean()] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=2)
        axis.set_xlabel(f"{metric}, %")
        figure.tight_layout()
        yield Drawing(f"{name}_variants", f"{metric} on test, one mark a seed; the line is their mean.", figure)


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
        rows = [row + 0.18 * (number - (len(columns) - 1) / 2) for row in range(len(means))]  # none hides another
        axis.plot(100 * means[column], rows, marker, color=colour, **EDGE, label=shown)
    axis.set_xlabel(f"{metric}, %")
    finish(figure, axis)
    said = f"{metric} on test rows of the kind that was trained on, and of kinds that were not; means over seeds."
    yield Drawing(f"{name}_transfer", said, figure)


def draw_ensemble(name: str, result: Result) -> Drawing:
    """Return a figure of each prompt alone, their mean, the one chosen on validation, and the vote."""
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
    said = f"{metric} on {result.metrics[metric].rows} test rows of {result.task}: each prompt alone, and all together."
    return Drawing(name, said, figure)


def draw_neighbours(name: str, record: Mapping[str, Any]) -> Drawing:
    """Return a figure with a mark a token: how near its nearest word is, and how near its words are to each other."""
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
        f"Each virtual token of a trained prompt, and as many random vectors: how near the nearest word of the "
        f"vocabulary is, and how near its {record['k']} nearest words are to each other."
    )
    return Drawing(name, said, figure)


def _figure_of_rows(names: Sequence[str], lines: int = 0) -> tuple[Figure, Axes]:
    """Return a figure with a row a name, and room for so many lines of a legend."""
    figure, axis = new_figure(height=1.4 + 0.5 * len(names) + 0.3 * lines)
    axis.margins(x=0.08)
    _rows(axis, [fill(name, 24) for name in names])  # long names would leave the marks no room
    axis.xaxis.set_major_locator(MaxNLocator(3))  # more would run into each other beside long names
    return figure, axis


def _marks(axis: Axes, row: int, values: Sequence[float], style: tuple[str, str]) -> None:
    colour, marker = style
    axis.plot(values, [row] * len(values), marker, color=colour, **EDGE)


def _rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", linewidth=0.4, color=INK, alpha=0.3)


def _name(runs: DataFrame, method: str) -> str:
    own = runs.loc[[method]]
    seeds = seeds_of(own)
    return own["label"].iloc[0] + (f" ({seeds} seeds)" if " of " in seeds else "")


def _place(cost: float, costs: Sequence[float]) -> float:
    """Return the power of ten of a cost; nothing at all stands a step to the left of the smallest."""
    return math.log10(cost) if cost > 0 else min((math.floor(math.log10(c)) for c in costs if c > 0), default=1) - 1
