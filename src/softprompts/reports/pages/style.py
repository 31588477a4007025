"""Set the style of figures: ink, colours, markers and sizes; and write their files.

A figure is drawn once in an ink that is nearly black: as PNG on white, and as SVG with the page's text colour in place
of the ink. The drawing is thus readable on light and dark backgrounds.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from softprompts.methods.catalog import METHODS
from softprompts.system.files import replacing

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: chooses no backend for the process
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

INK = "#010203"  # a unique colour, which SVG files replace by `currentColor`
# Grids have two kinds of hard prompts: with few-shot examples, and without.
STYLES = {
    "few_shot": (INK, "P"),
    **{
        "zero_shot" if method.name == "hard_prompt" else method.name: (method.colour, method.marker)
        for method in METHODS.values()
    },
}
OTHER = ("#CC79A7", "h")
Styles = Mapping[str, tuple[str, str]]  # colour and marker, by method
SERIES = tuple(STYLES[name] for name in ("few_shot", "prompt_tuning", "lora", "p_tuning", "full_finetuning"))
# The edge of a marker makes pale markers visible on white.
EDGE: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.6}
# A phone shows a figure with about one pixel per point, so that text is 13 pixels high.
WIDTH, HEIGHT = 5.0, 4.6  # inches
FONT: dict[Any, Any] = {
    "font.size": 13,
    "svg.fonttype": "none",  # text stays text: small, sharp and searchable
    "text.parse_math": False,  # a name may hold "$"
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.markersize": 8,
    "figure.max_open_warning": 0,  # a report has all its figures in memory at once
}


@dataclass(frozen=True)
class Drawing:
    """A figure, its name in file names, a caption, and a title among similar figures."""

    name: str
    caption: str
    figure: Figure
    title: str = ""


def styles_of(recipes: Mapping[str, str]) -> Styles:
    """Return a style for each method: the recipe's own for its first method, a spare one for the others."""
    colours, markers = zip(*STYLES.values(), OTHER, strict=True)
    # `shift` 0 gives the pairs of the table, others give new pairs of the same colours and markers.
    pairs = [(c, markers[(i + shift) % len(markers)]) for shift in range(len(markers)) for i, c in enumerate(colours)]
    own = {name: STYLES.get("zero_shot" if recipe == "hard_prompt" else recipe) for name, recipe in recipes.items()}
    found: dict[str, tuple[str, str]] = {}
    for name, style in own.items():
        spare = (pair for pair in pairs if pair not in found.values() and pair not in own.values())
        found[name] = style if style and style not in found.values() else next(spare, OTHER)
    return found


def new_figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Return a figure as wide as a phone, `height` in inches, and its only axes. Draw within `rc_context(FONT)`."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots()


def show_losses(axis: Axes) -> None:
    """Label the axes of validation losses over steps."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_xlabel("update")
    axis.set_ylabel("validation loss, nats per token")


def finish(figure: Figure, axis: Axes) -> None:
    """Add the grid and a legend below, and make room for them."""
    axis.grid(linewidth=0.4, color=INK, alpha=0.25)
    names = axis.get_legend_handles_labels()[1]
    columns = 2 if max(map(len, names), default=0) <= 28 else 1  # two long names would be wider than a phone
    figure.legend(loc="lower center", ncols=columns, frameon=False, fontsize=11.5, columnspacing=1.0, handletextpad=0.4)
    below = 0.1 + 0.235 * math.ceil(len(names) / columns)  # inches
    figure.set_figheight(max(figure.get_figheight(), 2.6 + below))  # a long legend does not shrink the axes
    figure.tight_layout(rect=(0, below / figure.get_figheight(), 1, 1))


def close(drawings: Sequence[Drawing]) -> None:
    """Release the memory of figures."""
    for drawing in drawings:
        drawing.figure.clear()


def _whole(figure: Figure) -> Bbox:
    """Return a figure's area in inches. It grows for names that would otherwise be cut."""
    return Bbox.union([figure.bbox_inches, figure.get_tightbbox()])


def svg(drawing: Drawing) -> str:
    """Return a figure as an SVG element for a page, without a background, in the page's text colour and font."""
    buffer = io.StringIO()
    # The salt makes ids unique on a page, and the same each time.
    with rc_context(FONT | {"svg.hashsalt": drawing.name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawing.figure.savefig(
            buffer, format="svg", transparent=True, metadata=nothing, bbox_inches=_whole(drawing.figure)
        )
    element = buffer.getvalue()
    element = element[element.index("<svg") :].replace(INK, "currentColor")
    element = re.sub(r"font-family: [^;\"]*", "font-family: inherit", element)
    return element.replace("<svg ", f'<svg role="img" aria-label="{escape(drawing.caption)}" ', 1)


def save_png(drawing: Drawing, folder: Path) -> Path:
    """Write a figure as FOLDER/NAME.png, on white.

    Raises:
        UserError: the disk is full.
    """
    path = folder / f"{drawing.name}.png"
    with replacing(path) as temporary, rc_context(FONT):
        drawing.figure.savefig(temporary, dpi=200, facecolor="white", bbox_inches=_whole(drawing.figure))
    return path
