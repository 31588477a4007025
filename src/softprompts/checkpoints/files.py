"""Save and load training checkpoints, as safetensors and JSON only.

A folder keeps at most four checkpoints: the newest; the one before it, in case the newest is damaged; the best
checkpoint that each of the two names; and the newest with a finite validation loss, to which `training.on_nan` may go
back. No other file in the folder is ever deleted.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from softprompts.checkpoints.folders import (
    AVERAGE,
    FORMAT,
    FROZEN,
    OPTIMIZER,
    STATE,
    TRAINABLE,
    DamagedError,
    checked_state,
    checkpoint_folders,
    is_ours,
    make_room,
    remove,
    remove_leftovers,
    state_of,
    write_sums,
)
from softprompts.checkpoints.parameters import (
    copy_by_name,
    frozen_parts,
    nearly_equal,
    set_trainable,
    trainable_tensors,
)
from softprompts.errors import UserError, short
from softprompts.models.sharding.tensors import Part, gathered, rows_of, whole
from softprompts.runs.fingerprints import changes, other_versions
from softprompts.runs.record import Progress
from softprompts.system.files import one_line

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass
class Restored:
    """The progress of a loaded checkpoint, and remarks on it, one line each."""

    progress: Progress
    notes: list[str]


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    progress: Progress,
    inputs: dict[str, Any] | None = None,
    average: Mapping[str, torch.Tensor] | None = None,
    write: bool = True,
) -> Path:
    """Write `folder/step-N` and delete older checkpoints, except those that the module's docstring names.

    The checkpoint is written under a temporary name and renamed, so that a kill or a full disk leaves the previous one.

    Args:
        folder: folder of the training's checkpoints.
        model: model with the trainable parameters.
        optimizer: optimizer whose state is saved.
        scheduler: scheduler whose state is saved.
        progress: progress of the training.
        inputs: fingerprints of the training's inputs, see `fingerprints.inputs_of`.
        average: averages of the trainable parameters, by name, if the training keeps any.
        write: whether this process writes. If weights are sharded, all processes must call this, and one writes.

    Raises:
        UserError: the disk is full; the place cannot be written.
    """
    target = folder / f"step-{progress.step:06d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    state = optimizer.state_dict()
    numbers, tensors = _split(state["state"], _moved(optimizer), write)
    trainable = trainable_tensors(model, keep=write)
    more = {AVERAGE: average or {}, FROZEN: frozen_parts(model)}
    optional = {
        file: {
            name: values.cpu().contiguous() for name, t in kept.items() if (values := whole(t)) is not None and write
        }
        for file, kept in more.items()
    }
    if not write:
        return target
    record = {
        "format": FORMAT,
        "progress": asdict(progress),
        "scheduler": {k: v for k, v in scheduler.state_dict().items() if k != "lr_lambdas"},
        "optimizer": {"param_groups": state["param_groups"], "numbers": numbers},
        "inputs": inputs,
    }
    with one_line(target):
        remove_leftovers(folder)
        try:
            temporary.mkdir(parents=True)
            save_file(trainable, temporary / TRAINABLE)
            save_file(tensors, temporary / OPTIMIZER)
            for file, kept in optional.items():
                if kept:
                    save_file(kept, temporary / file)
            (temporary / STATE).write_text(json.dumps(record), encoding="utf-8")
            write_sums(temporary)
            make_room(target)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _prune(folder, progress)
    return target


def _prune(folder: Path, progress: Progress) -> None:
    """Delete the checkpoints that are no longer needed."""
    ours = {step: place for step, place in checkpoint_folders(folder).items() if is_ours(place)}
    keep = {progress.step, progress.best_step}
    if before := [step for step in ours if step < progress.step]:
        previous = max(before)
        keep |= {previous, state_of(ours[previous])["progress"]["best_step"]}
    keep |= {max((step for step, place in ours.items() if _is_finite(state_of(place))), default=progress.step)}
    for step, place in ours.items():
        if step not in keep:
            remove(place)


def _is_finite(record: dict[str, Any]) -> bool:
    """Return whether a checkpoint was written after a validation with a finite loss."""
    last = (record["progress"].get("history") or [{}])[-1].get("validation_loss")
    return isinstance(last, int | float) and math.isfinite(last)


def forget_later(folder: Path, step: int) -> None:
    """Delete the checkpoints after `step`, because the training has gone back to that step.

    Raises:
        UserError: the folder cannot be written.
    """
    with one_line(folder):
        for later, place in checkpoint_folders(folder).items():
            if later > step and is_ours(place):
                remove(place)


def load_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    inputs: dict[str, Any] | None = None,
    average: Mapping[str, torch.Tensor] | None = None,
    finite: bool = False,
) -> Restored | None:
    """Restore the newest undamaged checkpoint in `folder` whose best one is undamaged too; None without a checkpoint.

    The frozen parts of a soft prompt are those of the checkpoint too, to the last bit.

    Args:
        folder: folder of the training's checkpoints.
        model: model that gets the trainable parameters.
        optimizer: optimizer that gets the saved state.
        scheduler: scheduler that gets the saved state.
        inputs: fingerprints of the training that continues, see `fingerprints.inputs_of`.
        average: tensors that get the averages of the trainable parameters, if the training keeps any.
        finite: restore only a checkpoint that was written after a validation with a finite loss.

    Raises:
        UserError: all checkpoints are damaged; the data, the base model or the frozen start of the soft prompt has
            changed; the checkpoint does not fit the model; a newer version of this package wrote it.
    """
    found = checkpoint_folders(folder)
    damage: list[str] = []
    for step in sorted(found, reverse=True):
        try:
            record, tensors, state = _read(found, step, optimizer)
        except DamagedError as error:
            damage.append(str(error))
            continue
        if finite and not _is_finite(record):
            continue
        frozen = _tensors(found[step] / FROZEN) if (found[step] / FROZEN).exists() else {}
        notes = _notes(found[step], record, inputs, same_start=nearly_equal(frozen, frozen_parts(model)))
        if damage:
            notes.append(f"going on from {found[step].name}, an earlier checkpoint: {'; '.join(damage)}")
        set_trainable(model, tensors)
        if frozen:
            copy_by_name(frozen, frozen_parts(model))
        if average:
            copy_by_name(_tensors(found[step] / AVERAGE), average)
        optimizer.load_state_dict(state | {"state": _rows(state["state"], _moved(optimizer))})
        scheduler.load_state_dict(record["scheduler"] | {"lr_lambdas": [None] * len(optimizer.param_groups)})
        # Another version may have more or fewer fields: a field without a value keeps its default.
        known = {f.name for f in fields(Progress)}
        return Restored(Progress(**{k: v for k, v in record["progress"].items() if k in known}), notes)
    if damage:
        raise UserError(f"--resume: no checkpoint in {folder} is whole: {'; '.join(damage)}; nothing was deleted")
    return None


def _read(
    found: dict[int, Path], step: int, optimizer: Optimizer
) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]:
    """Return the JSON, the parameters and the optimizer's state of a checkpoint.

    Raises:
        DamagedError: it, or the best checkpoint that it names, is damaged; UserError: as `state_of`.
    """
    place, record = found[step], checked_state(found, step)
    best = record["progress"]["best_step"]
    if best != step and record["progress"]["best_value"] is not None:
        checked_state(found, best)
    numbers, groups = record["optimizer"]["numbers"], record["optimizer"]["param_groups"]
    state = {"state": _join(numbers, _tensors(place / OPTIMIZER)), "param_groups": groups}
    _check_groups(place, groups, optimizer)
    return record, _tensors(place / TRAINABLE), state


def load_best(folder: Path, model: nn.Module, step: int) -> None:
    """Copy the parameters of checkpoint `step` into a model, or their averages if it has any.

    Raises:
        UserError: the checkpoint is damaged; it does not fit the model.
    """
    try:
        found = checkpoint_folders(folder)
        checked_state(found, step)
        average = found[step] / AVERAGE
        set_trainable(model, _tensors(average if average.exists() else found[step] / TRAINABLE))
    except DamagedError as error:
        raise UserError(f"{folder}: the best checkpoint is not whole: {error}") from None


def _notes(place: Path, record: dict[str, Any], inputs: dict[str, Any] | None, same_start: bool) -> list[str]:
    """Compare the inputs of a checkpoint with those of the training that continues; return remarks."""
    before = record.get("inputs")
    if inputs is None:
        return []
    if before is None:
        return [f"{place} holds no fingerprints: whether data and base model are still the same is not known"]
    changed = changes(before, inputs)
    if not same_start:
        changed.append(
            "the frozen part of the soft prompt starts from another text, or from an adapter that has changed"
        )
    if changed:
        raise UserError(
            f"--resume: {place.parent} was trained on something else: {'; '.join(changed)}. Put back what it was "
            "trained on, or choose another run.output_dir"
        )
    versions = other_versions(before, inputs)
    return [f"going on with other code, numbers may differ: {'; '.join(versions)}"] if versions else []


def _check_groups(place: Path, groups: list[dict[str, Any]], optimizer: Optimizer) -> None:
    """Raise `DamagedError` if the saved parameter groups do not have the form of those of `optimizer`.

    Raises:
        UserError: the checkpoint is from a version whose weight decay left out no parameters.
    """
    shapes = [
        [(len(group["params"]), group.keys() - {"initial_lr"}) for group in given]
        for given in (groups, optimizer.param_groups)
    ]
    if len(groups) < len(optimizer.param_groups) and any(group.get("weight_decay") for group in groups):
        raise UserError(
            f"--resume: {place} has weight decay on all parameters, and this version leaves out biases, norms and "
            "factors; choose another run.output_dir"
        )
    if shapes[0] != shapes[1]:
        raise DamagedError(f"{STATE} of {place.name} is damaged")


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        with one_line(file):
            return load_file(file)
    except SafetensorError:
        raise DamagedError(f"{file.name} of {file.parent.name} is damaged") from None


def _moved(optimizer: Optimizer) -> list[torch.Tensor]:
    """Return the tensors that an optimizer updates, in the order of their numbers in its state."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _rows(state: dict[int, dict[str, Any]], moved: list[torch.Tensor]) -> dict[int, dict[str, Any]]:
    """Return an optimizer's state; of sharded parameters it keeps only the rows that this process holds."""

    def own(value: Any, part: torch.Tensor) -> Any:
        sharded = isinstance(part, Part) and isinstance(value, torch.Tensor) and value.shape == part.of.shape
        return rows_of(value, part) if sharded else value

    return {
        index: {name: own(value, moved[index]) if index < len(moved) else value for name, value in values.items()}
        for index, values in state.items()
    }


def _split(
    state: dict[int, dict[str, Any]], moved: list[torch.Tensor], keep: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, torch.Tensor]]:
    """Split an optimizer's state into JSON values and whole tensors; a tensor's key is "parameter.name"."""
    numbers: dict[str, dict[str, Any]] = {}
    tensors = {}
    for index, values in state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                values_of_all = gathered(value, moved[index])
                if keep:
                    tensors[f"{index}.{name}"] = values_of_all.cpu().contiguous()
            else:
                numbers.setdefault(str(index), {})[name] = value
    return numbers, tensors


def _join(numbers: dict[str, dict[str, Any]], tensors: dict[str, torch.Tensor]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in numbers.items()}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if not index.isdecimal():
            raise DamagedError(f"{OPTIMIZER} holds {short(key)}, which is not a state of an optimizer")
        state.setdefault(int(index), {})[name] = value
    return state
