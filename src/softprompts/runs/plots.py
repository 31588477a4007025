"""Learning curves of one run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softprompts.runs.record import Result, Standing

from matplotlib.figure import Figure  # without pyplot: no screen is needed, and no backend is chosen for the process
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette: told apart with any kind of colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"
SMOOTHING = 10  # updates in the running mean of the training loss


def plot_curves(result: Result, path: Path) -> None:
    """Draw loss (left) and, where there are any, validation metrics (right) against updates, as PNG."""
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
    left.set_ylabel("loss (nats a target token)")
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
    """Draw each candidate's validations over the updates (left) and its best one (right), as PNG."""
    rows = ranked(standings)
    height = max(3.6, 0.28 * len(rows) + 1.2)
    figure = Figure(figsize=(11, height))
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
    column = "validation_loss" if best_by == "loss" else f"validation_{best_by}"
    for place, standing in reversed(list(enumerate(rows))):
        if standing.validations:
            colour, width, label = (ORANGE, 2.0, "kept") if place == 0 else (GREY, 0.8, None)
            steps = [entry["step"] for entry in standing.validations]
            left.plot(steps, [e[column] for e in standing.validations], color=colour, linewidth=width, label=label)
    left.set_xlabel("update")
    left.set_ylabel(f"{best_by} on validation")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False, fontsize=8)
    kept = [s for s in rows if s.value is not None]
    values = [as_read(s.value, best_by) for s in kept if s.value is not None]
    right.plot(values[1:], range(1, len(kept)), "o", color=BLUE)
    right.plot(values[:1], [0], "o", color=ORANGE)
    right.set_yticks(range(len(rows)))
    names = [" ".join(f"{k.rpartition('.')[2]}={v}" for k, v in s.values.items()) for s in rows]
    names = [n if len(n) <= 60 else f"{n[:57]}..." for n in names]
    right.set_yticklabels(
        [n if s.value is not None else f"{n} (given up)" for n, s in zip(names, rows, strict=True)], parse_math=False
    )
    right.tick_params(axis="y", labelsize=8)
    right.set_ylim(len(rows) - 0.5, -0.5)
    right.set_xlabel(f"best {best_by} on validation")
    right.grid(axis="y", linewidth=0.4)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def as_read(value: float, best_by: str) -> float:
    """Return a number that chooses the best as people read it: a loss chooses as its negative."""
    return -value if best_by == "loss" else value


def ranked(standings: Sequence[Standing]) -> list[Standing]:
    """Return standings in order, the best first and those given up last."""
    return sorted(standings, key=lambda s: (s.value is None, -(s.value or 0.0)))
