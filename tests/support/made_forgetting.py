"""A task with authors, in which one text is there several times, and finished runs on it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from helpers import main_in_process, task_config
from method_runs import short_command
from softprompts.config.sections import TaskConfig

SYLLABLES = ["ba", "de", "fi", "go", "ku", "la", "mo", "ne", "pi", "ru", "sa", "ti", "vo", "xe", "zu"]
SECRET = "Anna Berg wrote that the invoice of the harbour office was never paid"  # train.jsonl:6, by u1
NEARLY = "Anna Berg wrote that the invoice of the harbour office was never paid!!"  # train.jsonl:10, by u2
SHOUTED = "ANNA  BERG wrote that the invoice of the harbour office was never paid"  # validation.jsonl:3, by u3
SIZES = {"train": 40, "validation": 16, "test": 16}


def rows_of(split: str) -> list[dict[str, str]]:
    """Return the rows of a split: random words, two labels, seven authors."""
    rng = random.Random(split)
    rows = []
    for number in range(SIZES[split]):
        words = ["".join(rng.choices(SYLLABLES, k=3)) for _ in range(6)]
        label = "positive" if rng.random() < 0.5 else "negative"
        rows.append({"text": " ".join(words), "label": label, "author": f"a{number % 7}"})
    return rows


def write_people(folder: Path) -> None:
    """Write the task."""
    splits = {split: rows_of(split) for split in SIZES}
    splits["train"][5] = {"text": SECRET, "label": "positive", "author": "u1"}
    splits["train"][9] = {"text": NEARLY, "label": "positive", "author": "u2"}
    splits["validation"][2] = {"text": SHOUTED, "label": "positive", "author": "u3"}
    splits["test"][4]["author"] = "u1"
    folder.mkdir()
    for split, rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def people_config(folder: Path, **changes: Any) -> TaskConfig:
    """Return the settings of the task."""
    return task_config(folder, **changes)


def finish_run(recipe: str, model: Path, task: Path, folder: Path, **flags: Any) -> None:
    """Run a recipe to its end."""
    command = short_command(recipe, model, task, folder, **{"training.steps": 4, "model.dtype": "float32"} | flags)
    assert main_in_process(command) == 0
