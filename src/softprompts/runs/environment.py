"""Describe the environment of a run: versions, commit, processor, cores, memory."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from softprompts.system.files import IS_CLONE, PROJECT

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
    """Return the process's largest resident size so far; with a GPU, the largest allocated size on it."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def commit() -> str:
    """Return the commit of the running code; "unknown" if it cannot be found.

    In a clone it comes from git, with "+changes" if files differ from it, other than records in `results/`. Benchmarks
    write these while they run. An installation from a repository's address records it. Any other installation may be
    inside a foreign repository, whose commit would mean nothing.
    """
    if IS_CLONE:
        try:
            git = ["git", "-C", str(PROJECT)]
            found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
            files = ["status", "--porcelain", "-uno", "--", ":(exclude)results"]
            dirty = subprocess.run([*git, *files], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        return found.strip() + ("+changes" if dirty.stdout.strip() else "")
    try:
        source = json.loads(distribution("softprompts").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return "unknown"
    return str(source.get("vcs_info", {}).get("commit_id", "unknown"))


def available_cores() -> int:
    """Return the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Undo the single thread that `accelerate launch` sets for a CPU process without a given number."""
    if torch.get_num_threads() == 1 and not torch.accelerator.is_available() and _launcher_chose_threads():
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, available_cores() // processes))


def _launcher_chose_threads() -> bool:
    """Return whether `accelerate launch` started this process without a given number of threads.

    It then sets OMP_NUM_THREADS=1, which looks like a user's own choice. Only the launcher's command line and
    environment show the difference, because any program may set accelerate's variables.
    """
    try:
        launcher = psutil.Process(os.getppid())
        words, variables = launcher.cmdline(), launcher.environ()
    except (psutil.Error, OSError):
        return False
    by_accelerate = any(Path(word).name in ("accelerate", "accelerate-launch") for word in words[:2])
    # With `python -m accelerate.commands.launch`, the command line contains the module's name.
    by_accelerate |= any(word in ("accelerate.commands.launch", "accelerate.commands.accelerate_cli") for word in words)
    told = any(word.replace("-", "_").startswith("__num_cpu_threads_per_process") for word in words)
    return by_accelerate and not told and "OMP_NUM_THREADS" not in variables
