"""Tasks of a few rows, written to files and loaded, and the source of a metric."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softprompts.config.sections import TaskConfig
from softprompts.data.readers import Rows, open_file
from softprompts.errors import UserError
from softprompts.tasks.task import Task, load_task

import pytest

Load = Callable[..., Task]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def read_file(path: str | Path) -> Rows:
    """Return all rows of a file, or of several."""
    return [row for batch in open_file(path).batches() for row in batch]


def rows_of(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": ["bad", "good"][i % 2]} | more for i in range(count)]


def loader(folder: Path) -> Load:
    """Return a function that loads a task from the rows of train, validation and test, in files of a folder."""

    def go(train: Any = None, test: Any = None, **settings: Any) -> Task:
        files = {
            "train": write(folder / "train.jsonl", train or rows_of(4)),
            "validation": write(folder / "validation.jsonl", rows_of(2)),
            "test": write(folder / "test.jsonl", test or rows_of(2)),
        }
        return load_task(TaskConfig(**({"prompt": "{text}\n:", "target": " {label}"} | files | settings)))

    return go


def refusal(load: Load, *args: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Replace NUMBER by the name of its number.
CUSTOM = """
import datasets
import evaluate

class Length(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, schema=None):
        return {"NUMBER": sum(map(len, predictions)) / len(predictions) + (schema or {}).get("extra", 0)}
"""
