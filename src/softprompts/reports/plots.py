"""Draw the learning curves of a run, and those of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompts.runs.record import Result, Standing, ranked

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: needs no screen, and chooses no backend for the process
from matplotlib.ticker import MaxNLocator

# From Okabe and Ito's palette, for all kinds of colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"
SMOOTHING = 10  # steps in the running mean of the training loss


def plot_curves(result: Result, path: Path) -> None:
    """Draw loss (left) and validation metrics, if there are any, (right) over steps, as PNG."""
    history = result.training["history"]
    steps = [h for h in history if h.get("loss") is not None]
    validations = [h for h in history if h.get("validation_loss") is not None]
    metrics = [k for k in validations[0] if k not in ("step", "validation_loss")] if validations else []
    figure = Figure(figsize=(10 if metrics else 5.5, 3.6))
    axes = figure.subplots(1, 2 if metrics else 1, squeeze=False)
    left = axes[0][0]
    losses = [h["loss"] for h in steps]
    left.plot([h["step"] for h in steps], losses, color=GREY, linewidth=0.6, label="training, one batch")
    running = [sum(losses[max(0, i - SMOOTHING + 1) : i + 1]) / min(SMOOTHING, i + 1) for i in range(len(losses))]
    left.plot([h["step"] for h in steps], running, color=BLUE, label=f"training, mean of {SMOOTHING} batches")
    left.plot(
        [h["step"] for h in validations],
        [h["validation_loss"] for h in validations],
        color=ORANGE,
        marker="o",
        label="validation",
    )
    left.set_yscale("log")
    left.set_ylabel("loss (nats per target token)")
    for axis, colour, name in zip(
        axes[0][1:].repeat(len(metrics)), (BLUE, ORANGE) * len(metrics), metrics, strict=False
    ):
        axis.plot(
            [h["step"] for h in validations],
            [h[name] for h in validations],
            color=colour,
            marker="o",
            label=name.removeprefix("validation_") + ", validation",
        )
    if metrics:
        for name, values in list(result.baselines.get("majority_class", {}).items())[:1]:
            axes[0][1].axhline(values.value, color=GREY, linestyle=":", label=f"{name}, majority class (test)")
        axes[0][1].set_ylabel("metric")
    for axis in axes[0]:
        axis.axvline(result.training["best_step"], color="black", linewidth=0.8, linestyle="--", label="kept")
        axis.set_xlabel("update")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{result.recipe} on {result.task}, seed {result.seed}", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def plot_sweep(standings: Sequence[Standing], best_by: str, path: Path) -> None:
    """Draw a sweep as PNG.

    Above: each candidate's validations over steps (left), and its best one (right). Below: parallel coordinates, one
    line per candidate, from each of its values to its best validation.
    """
    rows = ranked(standings)
    height = max(3.6, 0.28 * len(rows) + 1.2)
    figure = Figure(figsize=(11, height + 3.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[height, 3.2])
    above, below = parts
    left, right = above.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
    _draw_validations(left, rows, best_by)
    _draw_ranks(right, rows, best_by)
    _draw_coordinates(below.add_subplot(), rows, best_by)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _draw_validations(axis: Axes, rows: Sequence[Standing], best_by: str) -> None:
    column = "validation_loss" if best_by == "loss" else f"validation_{best_by}"
    for place, standing in reversed(list(enumerate(rows))):
        if standing.validations:
            colour, width, label = (ORANGE, 2.0, "kept") if place == 0 else (GREY, 0.8, None)
            steps = [entry["step"] for entry in standing.validations]
            axis.plot(steps, [e[column] for e in standing.validations], color=colour, linewidth=width, label=label)
    axis.set_xlabel("update")
    axis.set_ylabel(f"{best_by} on validation")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, fontsize=8)


def _draw_ranks(axis: Axes, rows: Sequence[Standing], best_by: str) -> None:
    kept = [s for s in rows if s.value is not None]
    values = [as_read(s.value, best_by) for s in kept if s.value is not None]
    axis.plot(values[1:], range(1, len(kept)), "o", color=BLUE)
    axis.plot(values[:1], [0], "o", color=ORANGE)
    axis.set_yticks(range(len(rows)))
    names = [" ".join(f"{k.rpartition('.')[2]}={v}" for k, v in s.values.items()) for s in rows]
    names = [n if len(n) <= 60 else f"{n[:57]}..." for n in names]
    axis.set_yticklabels(
        [n if s.value is not None else f"{n} (given up)" for n, s in zip(names, rows, strict=True)], parse_math=False
    )
    axis.tick_params(axis="y", labelsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel(f"best {best_by} on validation")
    axis.grid(axis="y", linewidth=0.4)


def _draw_coordinates(axis: Axes, rows: Sequence[Standing], best_by: str) -> None:
    """Draw parallel coordinates. Numbers are in order and evenly spaced; the last axis is the best validation."""
    keys = list(rows[0].values)
    kept = [s for s in rows if s.value is not None]
    values = [as_read(s.value, best_by) for s in kept if s.value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    steps: dict[str, list[Any]] = {}
    for key in keys:
        found = list(dict.fromkeys(s.values[key] for s in rows))
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in found)
        steps[key] = sorted(found) if numbers else found
    for place, (standing, value) in reversed(list(enumerate(zip(kept, values, strict=True)))):
        heights = [_share(steps[key].index(standing.values[key]), len(steps[key]) - 1) for key in keys]
        colour, width = (ORANGE, 2.0) if place == 0 else (BLUE, 0.7)
        axis.plot(range(len(keys) + 1), [*heights, _share(value - low, high - low)], color=colour, linewidth=width)
    for place, key in enumerate(keys):
        axis.axvline(place, color="black", linewidth=0.6)
        for number, value in enumerate(steps[key]):
            text = str(value) if len(str(value)) <= 24 else f"{str(value)[:21]}..."
            axis.text(place + 0.02, _share(number, len(steps[key]) - 1), text, fontsize=7, parse_math=False)
    axis.axvline(len(keys), color="black", linewidth=0.6)
    for value in dict.fromkeys((low, high)):
        axis.text(len(keys) + 0.02, _share(value - low, high - low), f"{value:.4g}", fontsize=7)
    axis.set_xticks(range(len(keys) + 1), [*(k.rpartition(".")[2] for k in keys), f"best {best_by}"])
    axis.set_yticks([])
    axis.set_xlim(-0.05, len(keys) + 0.25)
    axis.spines[:].set_visible(False)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.5


def as_read(value: float, best_by: str) -> float:
    """Return a number that chooses the best as it is read: a loss has been negated for the choice."""
    return -value if best_by == "loss" else value
