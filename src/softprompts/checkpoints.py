"""Training checkpoints: written atomically, resumed exactly, safetensors and JSON only."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from softprompts.errors import UserError

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass
class Progress:
    """Where training stands. `history` holds one entry a validation and one a logged step.

    seconds: wall time, validations included; cpu_seconds: processor time of all threads of this process, which other
    work on the machine moves far less. energy_kwh: see `energy`; None where it was not estimated, or not all of it,
    since the run was stopped in between. loss_scale: state of the loss scaler in float16 mixed precision, else None.
    """

    step: int = 0
    best_step: int = 0
    best_value: float | None = None
    validations_without_gain: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    energy_kwh: float | None = None
    tokens: int = 0
    loss_scale: dict[str, float] | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def followed_by(self, later: Progress) -> Progress:
        """Return both stages as one, the later one's steps counted on; its best counts, and is chosen as it was."""
        energy, more = self.energy_kwh, later.energy_kwh
        shifted = [entry | {"step": entry["step"] + self.step} for entry in later.history]
        return replace(
            later,
            step=self.step + later.step,
            best_step=self.step + later.best_step,
            seconds=self.seconds + later.seconds,
            cpu_seconds=self.cpu_seconds + later.cpu_seconds,
            energy_kwh=None if energy is None or more is None else energy + more,
            tokens=self.tokens + later.tokens,
            history=self.history + shifted,
        )


def trainable_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the trainable parameters on the CPU, by name."""
    return {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}


def set_trainable(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put values from `trainable_tensors` back in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in tensors.items():
            parameters[name].copy_(value)


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step: whoever reads it sees the old text or the new, never half of one.

    Raises:
        UserError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with one_line_if_full(path, temporary):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@contextmanager
def one_line_if_full(path: Path, temporary: Path) -> Iterator[None]:
    """Remove `temporary`, a file or folder, after any error, and name `path` in one line where the disk is full."""
    try:
        yield
    except Exception as error:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        # safetensors reports a full disk as an error of its own kind.
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise UserError(
                f"{path}: the disk is full; what was saved before is unharmed. Free space, then --resume"
            ) from error
        raise


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, progress: Progress
) -> Path:
    """Write `folder/step-N` and delete older checkpoints, but for the best.

    A checkpoint is written beside its place and renamed, so that a kill or a full disk leaves the previous one.

    Raises:
        UserError: the disk is full.
    """
    target = folder / f"step-{progress.step:06d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    # Left by a run that was killed while it wrote.
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    with one_line_if_full(target, temporary):
        temporary.mkdir(parents=True)
        state = optimizer.state_dict()
        numbers, tensors = _split(state["state"])
        save_file(trainable_tensors(model), temporary / "trainable.safetensors")
        save_file(tensors, temporary / "optimizer.safetensors")
        record = {
            "progress": asdict(progress),
            "scheduler": {k: v for k, v in scheduler.state_dict().items() if k != "lr_lambdas"},
            "optimizer": {"param_groups": state["param_groups"], "numbers": numbers},
        }
        (temporary / "state.json").write_text(json.dumps(record), encoding="utf-8")
        for file in temporary.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    for old in folder.glob("step-*"):
        if old.name not in (target.name, f"step-{progress.best_step:06d}"):
            shutil.rmtree(old)
    return target


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> Progress | None:
    """Restore the newest checkpoint in `folder`, or return None where there is none."""
    newest = max(folder.glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")), default=None)
    if newest is None:
        return None
    record = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    set_trainable(model, load_file(newest / "trainable.safetensors"))
    state = _join(record["optimizer"]["numbers"], load_file(newest / "optimizer.safetensors"))
    optimizer.load_state_dict({"state": state, "param_groups": record["optimizer"]["param_groups"]})
    scheduler.load_state_dict(record["scheduler"] | {"lr_lambdas": [None] * len(optimizer.param_groups)})
    return Progress(**record["progress"])


def load_best(folder: Path, model: nn.Module, step: int) -> None:
    """Put the parameters of checkpoint `step` in place."""
    set_trainable(model, load_file(folder / f"step-{step:06d}" / "trainable.safetensors"))


def _split(state: dict[int, dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, torch.Tensor]]:
    """Part an optimizer's state into JSON values and tensors, the latter under "parameter.name"."""
    numbers: dict[str, dict[str, Any]] = {}
    tensors = {}
    for index, values in state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                numbers.setdefault(str(index), {})[name] = value
    return numbers, tensors


def _join(numbers: dict[str, dict[str, Any]], tensors: dict[str, torch.Tensor]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in numbers.items()}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state
