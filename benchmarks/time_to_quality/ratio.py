"""Compare the two sides of a record: the medians of their seconds, and their ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Side:
    """The runs of one side: how many `reached` the goal, how many there are, and the median of their seconds."""

    reached: int
    of: int
    seconds: float


@dataclass(frozen=True)
class Ratio:
    """Both sides, and the seconds of stock PEFT divided by those of the recipe, of medians.

    A run that did not reach the goal counts with the seconds that it had, so the ratio is then a lower bound. It is
    None if the recipe itself missed the goal.
    """

    recipe: Side
    stock: Side
    value: float | None

    @property
    def in_words(self) -> str:
        """The ratio as printed: "more than 6.1 times as long"."""
        if self.value is None:
            return "no ratio, because the recipe missed the score"
        more = "" if self.stock.reached == self.stock.of else "more than "
        return f"{more}{self.value:.1f} times as long"


def ratio_of(record: Mapping[str, Any]) -> Ratio | None:
    """Return the ratio in a record; None if a side lacks a run of `SEEDS`."""
    sides = {side: [run for run in record["runs"] if run["side"] == side] for side in ("recipe", "stock")}
    if any(set(SEEDS) - {run["seed"] for run in runs} for runs in sides.values()):
        return None
    recipe, stock = (_side(runs) for runs in sides.values())
    return Ratio(recipe, stock, stock.seconds / recipe.seconds if recipe.reached == recipe.of else None)


def _side(runs: Sequence[Mapping[str, Any]]) -> Side:
    return Side(sum(run["reached"] for run in runs), len(runs), median(run["seconds"] for run in runs))
