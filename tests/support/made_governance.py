"""A finished run made up for tests of governance: rows with groups, a record, predictions, an adapter and a plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from made_readiness import PLAN
from made_result import make_result
from made_tasks import write
from softprompts.config.sections import TaskConfig, TrainingConfig
from softprompts.config.tools import GovernanceConfig
from softprompts.metrics.scoring import intervals, load_metrics
from softprompts.tasks.task import load_task

import yaml

LABELS = ("billing", "shipping")
SIZES = {"train": 60, "validation": 20, "test": 80}
BASE = "bundled:smollm2-135m-instruct"


def made_rows(split: str) -> list[dict[str, Any]]:
    """Return rows in two languages by turns; labels by turns of two."""
    return [
        {
            "text": f"{split} ticket number {n}",
            "label": LABELS[n // 2 % 2],
            "language": ("en", "de")[n % 2],
            "customer": f"customer {n % 5}",
            "urgent": n % 4 == 0,
        }
        for n in range(SIZES[split])
    ]


def wrong_in_german(n: int, row: dict[str, Any]) -> bool:
    """Return whether the model is wrong: in every other German row."""
    return row["language"] == "de" and n % 4 == 1


class Made:
    """A folder with rows and a plan, and runs on them."""

    def __init__(self, folder: Path) -> None:
        """Write rows and plan."""
        self.folder = folder
        self.files = {split: write(folder / f"{split}.jsonl", made_rows(split)) for split in SIZES}
        self.task = TaskConfig(
            "{text}\nQueue:", " {label}", choices=[f" {label}" for label in LABELS], **self.files, name="tickets"
        )
        self.plan = folder / "readiness.yaml"
        self.write_plan()

    def write_plan(self, **changes: Any) -> None:
        """Write the plan with other fields; a field that is None is left out."""
        fields = {name: value for name, value in (PLAN | changes).items() if value is not None}
        self.plan.write_text(yaml.safe_dump(fields), encoding="utf-8")

    def run(
        self,
        name: str = "run",
        wrong: Callable[[int, dict[str, Any]], bool] = wrong_in_german,
        model: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        """Write a finished run: result.json, predictions.jsonl and the config of an adapter."""
        home = self.folder / "runs" / name
        (home / "adapter").mkdir(parents=True)
        (home / "adapter" / "adapter_config.json").write_text('{"num_virtual_tokens": 20}')
        task = load_task(self.task)
        rows = task.splits["test"]
        answers = [
            next(choice for choice in task.choices or () if (choice == row.target) != wrong(n, row.record))
            for n, row in enumerate(rows)
        ]
        lines = [
            {"place": row.place, "prompt": row.prompt, "target": row.target, "prediction": answer}
            for row, answer in zip(rows, answers, strict=True)
        ]
        write(home / "predictions.jsonl", lines)
        scores = intervals(
            load_metrics(["accuracy"]), [a.strip() for a in answers], [r.target.strip() for r in rows], 200
        )
        settings = {
            "model": model or {"name_or_path": BASE, "quantization": "none"},
            "task": asdict(self.task),
            "training": asdict(TrainingConfig(steps=10, batch_size=8)),
            "prompt": {"num_virtual_tokens": 20},
            "evaluation": {"split": "test"},
            "run": {"output_dir": str(home)},
        }
        values = {
            "task": "tickets",
            "settings": settings,
            "metrics": scores,
            "training": {"step": 10, "best_step": 10, "tokens": 1000} if training is None else training,
            "data": {"licence": "that of your data", "splits": task.fingerprint()},
            "notes": {"saved": "adapter", "kind": "decoder"},
            "environment": {"commit": "0123abc", "versions": {"torch": "2.13.0"}, "hardware": {"cores": 2}},
        }
        result = make_result(**(values | changes))
        (home / "result.json").write_text(json.dumps(asdict(result)), encoding="utf-8")
        return home

    def asked(self, run: Path, **changes: Any) -> GovernanceConfig:
        """Return the settings of the recipe."""
        return GovernanceConfig(**({"run": str(run), "plan": str(self.plan)} | changes))


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    change(tree)
    file.write_text(json.dumps(tree), encoding="utf-8")
