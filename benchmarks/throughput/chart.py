"""Draw the records of the training benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # works without a screen

from matplotlib import pyplot

# From Okabe and Ito's palette, for all kinds of colour vision.
COLOURS = {"engine": "#0072B2", "peft": "#E69F00", "trl": "#999999"}
LABELS = {"engine": "this engine", "peft": "PEFT + Trainer", "trl": "TRL SFTTrainer"}
NAMES = {
    "prompt20": "prompt, 20",
    "prompt100": "prompt, 100",
    "prefix20": "prefix, 20",
    "prefix100": "prefix, 100",
    "p_tuning20": "P-tuning, 20",
    "lora": "LoRA, r = 8",
    "full": "full fine-tuning",
}
HEIGHT = 0.27  # height of a bar; methods are 1 apart


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the seconds per step of every side, the first record on top, as PNG; nothing without records."""
    if not records:
        return
    with pyplot.rc_context({"font.family": "sans-serif", "font.size": 6.5}):
        figure, axis = pyplot.subplots(figsize=(6, 1 + 0.32 * len(records)), dpi=150)
        for number, (side, colour) in enumerate(COLOURS.items()):
            seconds = [record["seconds_an_update"][side]["median"] for record in records]
            places = [index + (number - 1) * HEIGHT for index in range(len(records))]
            axis.barh(places, seconds, height=HEIGHT, color=colour, label=LABELS[side])
            for place, value, record in zip(places, seconds, records, strict=True):
                text = f"{value:.2f} s" if side == "engine" else f"{value:.2f} s, {record['ratio'][side]:.1f}x"
                axis.annotate(
                    text, (value, place), xytext=(2, 0), textcoords="offset points", va="center", fontsize=5.5
                )
        axis.set_yticks(range(len(records)), [NAMES[record["method"]] for record in records])
        axis.invert_yaxis()
        axis.set_xlim(0, 1.12 * max(s["median"] for r in records for s in r["seconds_an_update"].values()))
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right"]].set_visible(False)
        # Above the bars, because there may be no room next to them.
        axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=len(COLOURS))
        size, cores = records[0]["settings"]["batch_size"], records[0]["environment"]["hardware"]["cores"]
        title = f"Seconds per step, batches of {size}, SmolLM2-135M fp32, {cores} CPU cores"
        axis.set_title(title, fontsize=7.5, pad=18)
        figure.tight_layout()
        figure.savefig(path)
        pyplot.close(figure)
