"""Start a run: its output folder, seed, accelerator and trackers."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from softprompts.config.sections import EvaluationConfig, RunConfig, TaskConfig
from softprompts.errors import UserError, logger, short
from softprompts.evaluation.predict import check_abstention
from softprompts.runs.environment import use_all_cores
from softprompts.runs.folders import (
    CONFIG_FILE,
    LOGS,
    OUTPUTS,
    Changes,
    claim,
    finished,
    folder_of,
    leaves,
    not_ours,
    plain,
    record_of,
)
from softprompts.runs.launch import check_launch, variable_in
from softprompts.system.allocator import keep_freed_memory
from softprompts.system.files import one_line, write_atomically

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, set_seed


@dataclass
class Run:
    """A run in progress. `settings` are the recipe's arguments as plain values; `folder` is its output folder.

    `resumed` are the settings that were changed on resume, each with `key`, `was` and `is`.
    """

    recipe: str
    settings: dict[str, Any]
    folder: Path
    seed: int
    accelerator: Accelerator
    started: float
    resumed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        """The folder of the training checkpoints."""
        return self.folder / "checkpoints"

    def say(self, text: str) -> None:
        """Log a text, once for all processes of a machine; a command line prints it."""
        if self.accelerator.is_local_main_process:
            logger.info(text)

    def output(self, name: str, fixed: bool = False) -> Path:
        """Return the path of an output: `name` in the run's folder, or another name if a user's file has it.

        The run's config.json lists its own names, so that a resumed run may write them again.

        Raises:
            UserError: a user's file has the name, and the name is `fixed`.
        """
        record = record_of(self.folder)
        if not record or OUTPUTS not in record:  # started by a version without this list
            return self.folder / name
        written = record[OUTPUTS]
        taken = [n for n in (name, *(f"run-{i}-{name}" for i in range(1, 100))) if n in written or not self._has(n)]
        if taken[0] != name and fixed:
            raise not_ours(self.folder / name)
        if taken[0] != name:
            self.say(f"{self.folder / name} is not from this run and stays unchanged; writing {taken[0]} instead")
        if taken[0] not in written:
            written.append(taken[0])
            write_atomically(self.folder / CONFIG_FILE, json.dumps(record, indent=2))
        return self.folder / taken[0]

    def _has(self, name: str) -> bool:
        return os.path.lexists(self.folder / name)


def start_run(recipe: str, **arguments: Any) -> Run:
    """Prepare output folder, seed, accelerator and trackers.

    Args:
        recipe: name in the record, e.g. "prompt_tuning".
        arguments: the recipe's dataclass arguments by name, including `run`.

    Raises:
        UserError: the folder is not empty, and the run is not resumed; it is resumed with other settings; another
            process owns it; it cannot be written; a tracker is not installed; recipes do not support the launch;
            abstention without choices, or with a choice of that name; the processes of the launch cannot meet.
        RunFinished: the resumed run is already finished.
    """
    config: RunConfig = arguments["run"]
    settings = {name: plain(value) for name, value in arguments.items()}
    folder = folder_of(config)
    _check_trackers(config.trackers)
    check_launch()
    _check_abstention(arguments.get("task"), arguments.get("evaluation"), recipe)
    use_all_cores()
    keep_freed_memory()
    accelerator = _meet(config, folder)
    changes = _claim_once(accelerator, folder, recipe, settings, arguments)
    if changes is None:
        raise finished(folder)
    changed, resumed = changes
    run = Run(recipe, settings, folder, config.seed, accelerator, time.perf_counter(), resumed)
    for change in changed:
        run.say(f"continuing with {change['key']} {change['is']} instead of {change['was']}")
    set_seed(config.seed)
    if config.trackers:
        with one_line(folder / LOGS):
            accelerator.init_trackers(recipe, config={k: v for k, v in leaves(settings) if v is not None})
    return run


def _meet(config: RunConfig, folder: Path) -> Accelerator:
    """Return this process's part of the launch, as soon as all processes have met."""
    try:
        return Accelerator(
            # Otherwise processes that accelerate launched on a machine without a GPU would not find each other.
            cpu=not torch.accelerator.is_available(),
            log_with=list(config.trackers) or None,
            project_dir=str(folder / LOGS),
            # The frozen base model is the same everywhere, so only gradients of trainable parameters are exchanged.
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timedelta(seconds=config.process_timeout)),
            ],
        )
    except torch.distributed.DistError as error:
        raise UserError(
            "launch: the processes cannot meet. Check --main_process_ip, and choose a --main_process_port that is "
            f"free: {short(error)}"
        ) from None
    except ValueError as error:  # a variable of the launch has a value that accelerate does not know
        raise UserError(f"launch: {short(error)}; correct {variable_in(str(error))}") from None


def _check_trackers(trackers: list[str]) -> None:
    for tracker in trackers:
        if tracker not in {t.value for t in get_available_trackers()}:  # accelerate would silently ignore it
            raise UserError(f"run.trackers: {tracker} is not installed; run `pip install {tracker}`")


def _check_abstention(task: TaskConfig | None, evaluation: EvaluationConfig | None, recipe: str) -> None:
    if not task or not evaluation or evaluation.abstain_below is None:
        return
    if task.choices is None:
        raise UserError("evaluation.abstain_below: applies only with task.choices, whose probabilities it looks at")
    if task.choices != "from_train":  # otherwise they are known and checked before the first step
        words = task.choices.values() if isinstance(task.choices, dict) else task.choices
        check_abstention(list(words), evaluation)
    if recipe == "ensemble" and evaluation.abstain_below == "auto":
        raise UserError("evaluation.abstain_below: auto applies to a single model; expected a probability for a vote")


def _claim_once(
    accelerator: Accelerator, folder: Path, recipe: str, settings: dict[str, Any], arguments: dict[str, Any]
) -> Changes | None:
    """Claim the folder in one process, which informs the others, because they would see its files."""
    verdict: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            with one_line(f"run.output_dir: {folder}"):
                verdict = [claim(folder, recipe, settings, arguments)]
        except UserError as error:
            verdict = [error]
    broadcast_object_list(verdict)
    if isinstance(verdict[0], UserError):
        raise verdict[0]
    changes: Changes | None = verdict[0]
    return changes
