"""Measure the resident memory of a process that serves 1, 10, 100 and 1,000 tasks."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.workload import VIRTUAL, loaded
from softprompts.adapters.checks import WEIGHTS
from softprompts.serving.tasks import Tasks

import psutil
import torch
from safetensors.torch import load_file, save_file

COUNTS = (1, 10, 100, 1000)


def measure(model: str | None, folder: Path, work: Path, counts: Sequence[int]) -> dict[str, Any]:
    """Add prompts of `VIRTUAL` tokens; return MiB by count: after loading, and after each prompt was used once.

    model: the base model, None for the bundled one; folder: folder of one prompt-tuning adapter, from which the others
    are made; work: folder for their files.
    """
    base, tokenizer = loaded(model)
    tasks = Tasks(base, tokenizer)
    found: dict[str, Any] = {"virtual_tokens": VIRTUAL, "loaded_mib": {}, "used_mib": {}}
    for count in counts:
        for number in range(len(tasks.names) - 1, count):
            tasks.add(f"task-{number}", str(another(folder, work / str(number), number)))
        found["loaded_mib"][str(count)] = _resident()
    for count in counts:
        for name in tasks.names[1 : count + 1]:
            tasks.front(tasks.get(name))
        found["used_mib"][str(count)] = _resident()
    shutil.rmtree(work)
    found["bound_mib"] = tasks.cache_bytes / 2**20
    return found


def another(folder: Path, copy: Path, number: int) -> Path:
    """Write an adapter with other values."""
    shutil.copytree(folder, copy)
    tensors = load_file(folder / WEIGHTS)
    torch.manual_seed(number)
    save_file({name: value + 0.01 * torch.randn_like(value) for name, value in tensors.items()}, copy / WEIGHTS)
    return copy


def _resident() -> float:
    gc.collect()
    return round(psutil.Process().memory_info().rss / 2**20, 2)


def write(model: str | None, folder: Path, work: Path, out: Path, counts: Sequence[int] = COUNTS) -> None:
    """Measure in this process, and write the result."""
    out.write_text(json.dumps(measure(model, folder, work, counts)), encoding="utf-8")
