"""The style of every figure: ink, colours, markers, sizes; and its files.

A figure is drawn once in an ink that is nearly black: as PNG on white, and as SVG with the page's text colour in place
of the ink. One drawing can then be read on light and on dark ground.
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
from matplotlib.figure import Figure  # without pyplot: no backend is chosen for the process
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

INK = "#010203"  # a colour that nothing else has: SVG gets `currentColor` in its place
# Grids have two kinds of written prompts: with solved examples, and without.
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
# Of a mark, so that a pale one is seen on white.
EDGE: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.6}
# On a phone a figure is about as many pixels wide as it is points here, so that text is 13 pixels high there.
WIDTH, HEIGHT = 5.0, 4.6  # inches
FONT: dict[Any, Any] = {
    "font.size": 13,
    "svg.fonttype": "none",  # text stays text: small, sharp, and it can be searched
    "text.parse_math": False,  # a name may hold "$"
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.markersize": 8,
    "figure.max_open_warning": 0,  # a report holds all its figures at once
}


@dataclass(frozen=True)
class Drawing:
    """A figure, its name in file names, a sentence that says what it shows, and a title among others of its kind."""

    name: str
    caption: str
    figure: Figure
    title: str = ""


def styles_of(recipes: Mapping[str, str]) -> Styles:
    """Return a style for each method, by its recipe: the recipe's own for the first, a spare one for every other."""
    colours, markers = zip(*STYLES.values(), OTHER, strict=True)
    # With `shift` 0 those of the table, then other pairs of the same colours and markers.
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
    """Label the axes of losses on validation over updates."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_xlabel("update")
    axis.set_ylabel("validation loss, nats a token")


def finish(figure: Figure, axis: Axes) -> None:
    """Add the grid and a legend below, and make room for them."""
    axis.grid(linewidth=0.4, color=INK, alpha=0.25)
    names = axis.get_legend_handles_labels()[1]
    columns = 2 if max(map(len, names), default=0) <= 28 else 1  # two long names are wider than a phone
    figure.legend(loc="lower center", ncols=columns, frameon=False, fontsize=11.5, columnspacing=1.0, handletextpad=0.4)
    below = 0.1 + 0.235 * math.ceil(len(names) / columns)  # inches
    figure.set_figheight(max(figure.get_figheight(), 2.6 + below))  # a long legend leaves the axes their height
    figure.tight_layout(rect=(0, below / figure.get_figheight(), 1, 1))


def close(drawings: Sequence[Drawing]) -> None:
    """Give back the memory of figures."""
    for drawing in drawings:
        drawing.figure.clear()


def _whole(figure: Figure) -> Bbox:
    """Return a figure's area in inches: a name that is too long for it makes it larger, and is not cut."""
    return Bbox.union([figure.bbox_inches, figure.get_tightbbox()])


def svg(drawing: Drawing) -> str:
    """Return a figure as an SVG element for a page: no ground of its own, and text in the page's colour and font."""
    buffer = io.StringIO()
    # The salt keeps the ids of several figures on one page apart, and those of two makings of it the same.
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
