"""An invented run record for tests of code that reads or writes records."""

from __future__ import annotations

from typing import Any

from softprompts.metrics.scoring import Interval
from softprompts.runs.record import Result

HISTORY = [
    {"step": 0, "validation_loss": 2.0, "validation_accuracy": 0.5},
    *({"step": n, "loss": 2.0 / n, "lr": 0.1} for n in range(1, 13)),
    {"step": 12, "validation_loss": 0.4, "validation_accuracy": 0.8},
]


def make_result(**changes: Any) -> Result:
    """Return the record of a short run of prompt tuning."""
    values: dict[str, Any] = {
        "recipe": "prompt_tuning",
        "task": "sentiment",
        "settings": {
            "model": {"name_or_path": "bundled:smollm2-135m-instruct"},
            "task": {"prompt": "{text}\nSentiment:", "target": " {label}"},
        },
        "seed": 3,
        "metrics": {"accuracy": Interval(0.85, 0.8123, 0.9, 600)},
        "baselines": {"majority_class": {"accuracy": Interval(0.51, 0.47, 0.55, 600)}},
        "test_loss": 0.4,
        "parameters": {"total": 134_526_528, "trainable": 11_520, "saved": 11_520},
        "cost": {"seconds_total": 12.5},
        "training": {"best_step": 12, "history": HISTORY},
        "notes": {"say": "größer"},
        "data": {"licence": "The MIT License (MIT)", "splits": {"test": {"rows": 600, "sha256": "ab"}}},
        "environment": {"commit": "0123abc"},
        "finished": "2026-01-02T03:04:05+00:00",
    }
    return Result(**(values | changes))
