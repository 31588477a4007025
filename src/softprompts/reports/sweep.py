"""A sweep as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softprompts.files import replacing, write_atomically
from softprompts.reports.curves import BLUE, GREY, ORANGE
from softprompts.runs import Run
from softprompts.sweeps import Standing

from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator


def save_sweep(run: Run, standings: Sequence[Standing], best_by: str) -> None:
    """Print the table and write `sweep.md` and `sweep.png`."""
    text = table(standings, best_by)
    if run.accelerator.is_main_process:
        write_atomically(run.output("sweep.md"), text + "\n")
        with replacing(run.output("sweep.png")) as picture:
            plot_sweep(standings, best_by, picture)
    run.say(text)


def table(standings: Sequence[Standing], best_by: str) -> str:
    """Return the candidates as a Markdown table, the best on validation first, those given up last."""
    keys = list(standings[0].values)
    head = [*(k.removeprefix("training.").removeprefix("prompt.") for k in keys), f"best validation {best_by}", "step"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for standing in _ranked(standings):
        value = "given up" if standing.value is None else f"{_shown(standing.value, best_by):.4f}"
        settings = [" ".join(str(standing.values[k]).split()).replace("|", "\\|") for k in keys]
        lines.append(f"| {' | '.join([*settings, value, str(standing.best_step)])} |")
    return "\n".join(lines)


def plot_sweep(standings: Sequence[Standing], best_by: str, path: Path) -> None:
    """Draw each candidate's validations over the updates (left) and its best one (right), as PNG."""
    ranked = _ranked(standings)
    height = max(3.6, 0.28 * len(ranked) + 1.2)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, height), gridspec_kw={"width_ratios": [3, 2]})
    column = "validation_loss" if best_by == "loss" else f"validation_{best_by}"
    for place, standing in reversed(list(enumerate(ranked))):
        if standing.validations:
            colour, width, label = (ORANGE, 2.0, "kept") if place == 0 else (GREY, 0.8, None)
            steps = [entry["step"] for entry in standing.validations]
            left.plot(steps, [e[column] for e in standing.validations], color=colour, linewidth=width, label=label)
    left.set_xlabel("update")
    left.set_ylabel(f"{best_by} on validation")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False, fontsize=8)
    kept = [s for s in ranked if s.value is not None]
    values = [_shown(s.value, best_by) for s in kept if s.value is not None]
    right.plot(values[1:], range(1, len(kept)), "o", color=BLUE)
    right.plot(values[:1], [0], "o", color=ORANGE)
    right.set_yticks(range(len(ranked)))
    names = [" ".join(f"{k.rpartition('.')[2]}={v}" for k, v in s.values.items()) for s in ranked]
    names = [n if len(n) <= 60 else f"{n[:57]}..." for n in names]
    right.set_yticklabels(
        [n if s.value is not None else f"{n} (given up)" for n, s in zip(names, ranked, strict=True)], parse_math=False
    )
    right.tick_params(axis="y", labelsize=8)
    right.set_ylim(len(ranked) - 0.5, -0.5)
    right.set_xlabel(f"best {best_by} on validation")
    right.grid(axis="y", linewidth=0.4)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _shown(value: float, best_by: str) -> float:
    """A loss chooses as its negative, so that larger is better; people read it as it is."""
    return -value if best_by == "loss" else value


def _ranked(standings: Sequence[Standing]) -> list[Standing]:
    return sorted(standings, key=lambda s: (s.value is None, -(s.value or 0.0)))
