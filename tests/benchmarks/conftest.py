"""A small grid over the tiny model and task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import GridConfig, MethodConfig
from helpers import ROOT

import pytest


@pytest.fixture
def make_grid(
    tiny_model: Path, tiny_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., GridConfig]:
    """Return a function that makes a grid of a hard prompt and of prompt tuning with a sweep of two rates."""
    monkeypatch.chdir(ROOT)
    files = {f"task.{split}": str(tiny_task / f"{split}.jsonl") for split in ("train", "validation", "test")}
    settings: dict[str, Any] = files | {
        "model.name_or_path": str(tiny_model),
        "task.dataset": None,
        "task.where": {},
        "task.choices": [" positive", " negative"],
        "task.prompt": "{text} sentiment",
        "evaluation.bootstrap_resamples": 20,
    }

    def make(**changes: Any) -> GridConfig:
        methods = {
            "written": MethodConfig("hard_prompt", "hard prompt", {"hard.wordings": ["{text} sentiment", "{text}:"]}),
            "prompt_tuning": MethodConfig(
                "prompt_tuning",
                settings={"prompt.num_virtual_tokens": 4},
                sweep={"training.learning_rate": [0.01, 0.1]},
            ),
        }
        training = {"steps": 4, "batch_size": 8, "warmup_steps": 0, "eval_every": 2, "best_by": "loss"}
        values: dict[str, Any] = {
            "task": "sentiment",
            "methods": methods,
            "seeds": [0, 1],
            "settings": settings,
            "training": training | {"eval_rows": None},
            "sweep_training": {"steps": 2},
        }
        return GridConfig(**(values | changes))

    return make
