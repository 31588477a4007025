"""The record of a run: settings, versions, commit, hardware, data fingerprint, metrics, cost."""

from __future__ import annotations

import json
import math
import platform
import resource
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from softprompts.fingerprints import commit
from softprompts.runs import available_cores
from softprompts.scoring import Interval

import psutil
import torch

PACKAGES = (
    "softprompts",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "evaluate",
    "bitsandbytes",
)


@dataclass
class Result:
    """The record of a run, as `result.json` holds it. Seconds are wall time, memory GiB, tokens real ones."""

    recipe: str
    task: str
    settings: dict[str, Any]
    seed: int
    metrics: dict[str, Interval]
    baselines: dict[str, dict[str, Interval]]
    test_loss: float
    parameters: dict[str, int]
    cost: dict[str, float]
    training: dict[str, Any]
    notes: dict[str, Any]
    data: dict[str, Any]
    environment: dict[str, Any]
    finished: str


def environment() -> dict[str, Any]:
    """Return versions, commit and hardware."""
    return {
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES if find_spec(p)},
        "commit": commit(),
        "hardware": {
            "processor": _processor(),
            "cores": available_cores(),
            "threads": torch.get_num_threads(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [s for s in info.read_text("utf-8", "replace").splitlines() if s.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor()


def peak_memory_gib() -> float:
    """Return the process's largest resident size so far, or the GPU's allocated one where there is a GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def as_json(result: Result) -> str:
    """Return a record as JSON text, with null for a loss that is not a number: JSON has no word for it."""
    return json.dumps(_finite(asdict(result)), indent=1, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_result(path: Path) -> Result:
    """Read a record back; fields that another version of the library has written besides are left out."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data = {name: data[name] for name in Result.__dataclass_fields__}
    data["metrics"] = {k: Interval(**v) for k, v in data["metrics"].items()}
    data["baselines"] = {
        name: {k: Interval(**v) for k, v in metrics.items()} for name, metrics in data["baselines"].items()
    }
    return Result(**data)
