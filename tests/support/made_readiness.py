"""A task without faults, its config and its plan; tests of readiness add faults to it."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from made_result import make_result
from made_tasks import write
from softprompts.config.methods import HardPromptConfig
from softprompts.config.sections import TaskConfig
from softprompts.config.tools import ReadinessConfig
from softprompts.evaluation.hard_prompts import written_tasks
from softprompts.metrics.scoring import Interval
from softprompts.tasks.task import load_task

import yaml

WORDS = """
invoice parcel password arrived yesterday damaged refund courier login broken charged twice delivery address
account email reset colour green box window payment card month annual plan upgrade cancel order late missing
item return label printed wrong street number house neighbour signed driver called morning evening screen
error message button profile picture upload page loads slowly customer wants answer today please help thanks
regards never again
"""
LABELS = ("billing", "shipping")
SIZES = {"train": 120, "validation": 40, "test": 60}
PLAN: dict[str, Any] = {
    "goal": "Sort tickets",
    "kpi": {"metric": "accuracy", "target": 0.9, "measured": "on test, once", "today": 0.6},
    "owner": "Ada",
    "reviewers": ["Grace"],
    "data_owner": "Edsger",
    "legal_basis": "contract",
    "intended_users": "agents",
    "cost_of_error": "two hours",
    "fallback": "sort by hand",
}
OWN_METRIC = '''"""Two numbers."""

import datasets
import evaluate


class Lengths(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        assert references[0], "an empty target"
        return {"same": 1.0, "longer": 0.5}
'''
Rows = dict[str, list[dict[str, Any]]]


def clean_rows() -> Rows:
    """Return rows of three splits: all different, labels in equal shares, in one language."""
    draw = random.Random(0)
    return {
        split: [{"text": " ".join(draw.sample(WORDS.split(), 14)), "label": LABELS[n % 2]} for n in range(size)]
        for split, size in SIZES.items()
    }


def own_metric(folder: Path, text: str = OWN_METRIC) -> str:
    """Write the module of a user's metric, by default with the numbers `same` and `longer`, and return its path."""
    file = folder / "lengths.py"
    file.write_text(text, encoding="utf-8")
    return str(file)


class Made:
    """A folder with rows, config and plan."""

    def __init__(self, folder: Path, model: Path, rows: Rows | None = None) -> None:
        """Write them."""
        self.folder = folder
        self.plan = folder / "readiness.yaml"
        self.config = folder / "prompt_tuning.yaml"
        self.settings: dict[str, Any] = {
            "model": {"name_or_path": str(model)},
            "task": {
                **{s: write(folder / f"{s}.jsonl", found) for s, found in (rows or clean_rows()).items()},
                "prompt": "{text}\nQueue:",
                "target": " {label}",
                "choices": [f" {label}" for label in LABELS],
                "max_length": 240,
            },
            "prompt": {"num_virtual_tokens": 5},
            "training": {"steps": 10},
            "run": {"output_dir": str(folder / "runs" / "prompt_tuning")},
        }
        self.write_config()
        self.write_plan()

    def write_config(self, **task: Any) -> None:
        """Write the config with other settings of the task."""
        text = yaml.safe_dump(self.settings | {"task": self.settings["task"] | task})
        self.config.write_text(text, encoding="utf-8")

    def write_plan(self, **changes: Any) -> None:
        """Write the plan with other fields; a field that is None is left out."""
        fields = {name: value for name, value in (PLAN | changes).items() if value is not None}
        self.plan.write_text(yaml.safe_dump(fields), encoding="utf-8")

    def write_baseline(self, value: float = 0.7, shots: int = 0, **changes: Any) -> Path:
        """Write the record of a hard prompt on the rows of this moment to its usual place."""
        rows = SIZES["test"]
        recipe = changes.pop("recipe", "hard_prompt")
        task = asdict(TaskConfig("{text}\nQueue:", " {label}")) | self.settings["task"]
        hard = HardPromptConfig(["{text}\nAnswer:", changes.get("prompt", task["prompt"])], shots=shots)
        written = written_tasks(load_task(TaskConfig(**task)), hard, seed=3)[1]
        result = make_result(
            recipe=recipe,
            settings={"model": self.settings["model"], "task": task | changes, "evaluation": {"split": "test"}}
            | {"hard": asdict(hard)},
            seed=3,
            metrics={"accuracy": Interval(value, value - 0.1, value + 0.1, rows)},
            data={"licence": "yours", "splits": written.fingerprint()},
            notes={"chosen": 1, "wordings": [{"prompt": wording} for wording in hard.wordings]},
        )
        path = self.folder / "runs" / "hard_prompt" / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(result)), encoding="utf-8")
        return path

    def asked(self, **changes: Any) -> ReadinessConfig:
        """Return the settings of the recipe."""
        return ReadinessConfig(**({"config": str(self.config), "plan": str(self.plan)} | changes))
