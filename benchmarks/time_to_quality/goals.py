"""The goals of time to quality: the score of a task that training must reach, and the recipe for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Goal:
    """A score of a task that training must reach, and the recipe for it."""

    task: str
    recipe: str
    metric: str
    score: float


GOALS = {
    "sentiment": Goal("sentiment", "prompt_tuning", "accuracy", 0.85),
    "home_commands": Goal("home_commands", "prefix_tuning", "valid_schema", 0.60),
}


def config_of(goal: Goal) -> dict[str, Any]:
    """Return the shipped config of a goal's recipe."""
    found: dict[str, Any] = yaml.safe_load(
        Path("configs", goal.task, f"{goal.recipe}.yaml").read_text(encoding="utf-8")
    )
    return found


def asked(name: str) -> dict[str, Any]:
    """Return what all runs of a record have in common: the goal, and the recipe's config."""
    goal = GOALS[name]
    return {"goal": asdict(goal), "config": config_of(goal)}
