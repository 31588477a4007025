"""Start a run: its output folder, seed, accelerator and trackers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from softprompts.checkpoints import write_atomically
from softprompts.config import RunConfig
from softprompts.errors import UserError, nearest

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import broadcast_object_list, set_seed

CONFIG_FILE = "config.json"
LOGS = "logs"
RESULT_FILE = "result.json"
COMPARE_FILE = "compare.json"  # what a comparison leaves in its place


@dataclass
class Run:
    """A run under way. `settings` are the recipe's arguments as plain values; `folder` is where its output goes."""

    recipe: str
    settings: dict[str, Any]
    folder: Path
    seed: int
    accelerator: Accelerator
    started: float

    @property
    def checkpoints(self) -> Path:
        """Folder of the training checkpoints."""
        return self.folder / "checkpoints"

    def say(self, text: str) -> None:
        """Print a line, once over all processes."""
        self.accelerator.print(text, flush=True)


def start_run(recipe: str, **arguments: Any) -> Run:
    """Prepare output folder, seed, accelerator and trackers.

    Args:
        recipe: name in the record, e.g. "prompt_tuning".
        arguments: the recipe's dataclass arguments by name, `run` among them.

    Raises:
        UserError: the folder exists and holds something, and the run is not to be resumed; it is to be resumed
            with other settings; an unknown tracker.
        SystemExit: with code 0, where a resumed run is already finished.
    """
    config: RunConfig = arguments["run"]
    settings = {name: plain(value) for name, value in arguments.items()}
    folder = Path(config.output_dir)
    for tracker in config.trackers:
        if tracker not in LOGGER_TYPE_TO_CLASS:
            raise UserError(f'run.trackers: unknown tracker "{tracker}"{nearest(tracker, LOGGER_TYPE_TO_CLASS)}')
        if tracker not in {t.value for t in get_available_trackers()}:  # accelerate would leave it out without a word
            raise UserError(f"run.trackers: {tracker} is not installed; run `pip install {tracker}`")
    use_all_cores()
    accelerator = Accelerator(
        # Processes that accelerate launched on a machine without a GPU would not find each other otherwise.
        cpu=not torch.accelerator.is_available(),
        log_with=list(config.trackers) or None,
        project_dir=str(folder / LOGS),
        # The base is frozen and the same everywhere: nothing but the gradient of what trains need cross processes.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    # One process looks at the folder and tells the others: they would see what it has written meanwhile.
    verdict: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            verdict = [_claim(folder, recipe, settings, config)]
        except UserError as error:
            verdict = [error]
    broadcast_object_list(verdict)
    if isinstance(verdict[0], UserError):
        raise verdict[0]
    if verdict[0] == "finished":
        accelerator.print(f"{folder} holds a finished run; nothing to do")
        raise SystemExit(0)
    set_seed(config.seed)
    if config.trackers:
        accelerator.init_trackers(recipe, config={k: v for k, v in leaves(settings) if v is not None})
    return Run(recipe, settings, folder, config.seed, accelerator, time.perf_counter())


def available_cores() -> int:
    """Return the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Undo the single thread that `accelerate launch` gives a process on the CPU when it is told no number."""
    # Its mixed precision is set by others, too: by the benchmark, whose launches share the cores.
    launched = "ACCELERATE_DYNAMO_BACKEND" in os.environ
    if launched and torch.get_num_threads() == 1 and not torch.accelerator.is_available():
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, available_cores() // processes))


def _claim(folder: Path, recipe: str, settings: dict[str, Any], config: RunConfig) -> str:
    """Make the folder ours, or raise `UserError`; return "finished" for a run that has its result."""
    record = {"recipe": recipe} | settings
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run.output_dir: {folder} is a file")
    if folder.is_dir() and any(folder.iterdir()) and not _never_began(folder):
        if not config.resume:
            raise UserError(f"run.output_dir: {folder} is not empty; choose another folder, or go on with --resume")
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(f"run.output_dir: {folder} holds no run to resume: it has no {CONFIG_FILE}")
        before = dict(leaves(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))))
        after = dict(leaves(json.loads(json.dumps(record))))
        changed = [
            f"{key} was {before.get(key)!r} and is {after.get(key)!r}"
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key) and not key.startswith("run.")
        ]
        if before.get("run.seed") != after.get("run.seed"):
            changed.append(f"run.seed was {before.get('run.seed')} and is {after.get('run.seed')}")
        if changed:
            raise UserError(f"--resume: the settings of {folder} have changed: {'; '.join(changed)}")
        finished = any((folder / record).is_file() for record in (RESULT_FILE, COMPARE_FILE))
        return "finished" if finished else "resumed"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.output_dir: cannot make {folder}: {error.strerror}") from error
    write_atomically(folder / CONFIG_FILE, json.dumps(record, indent=2))
    return "new"


def _never_began(folder: Path) -> bool:
    """Say whether a run failed here before its first checkpoint: nothing to resume, and nothing to lose."""
    if {p.name for p in folder.iterdir()} - {CONFIG_FILE, LOGS} or not (folder / CONFIG_FILE).is_file():
        return False
    try:
        return "recipe" in json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError:
        return False  # somebody else's file


def plain(value: Any) -> Any:
    """Turn settings into JSON values: dataclasses into dicts, enums into their values, sets into sorted lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, set):
        return sorted(plain(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, torch.dtype):
        return str(value)
    return value


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every leaf of nested dicts; a list is one leaf, as text."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), str(tree) if isinstance(tree, list) else tree
