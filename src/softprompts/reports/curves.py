"""Learning curves of one run as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen is needed, and none is looked for

from softprompts.results import Result

from matplotlib import pyplot
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
    figure, axes = pyplot.subplots(1, 2 if metrics else 1, figsize=(10 if metrics else 5.5, 3.6), squeeze=False)
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
    pyplot.close(figure)
