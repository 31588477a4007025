"""Find the folders of a run's checkpoints, check them for damage, and delete their files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softprompts.data.sources import SPLITS
from softprompts.errors import UserError, warn
from softprompts.system.files import one_line

FORMAT = 2  # of state.json; format 1 has no such field, no checksums and no fingerprints
STATE, TRAINABLE, OPTIMIZER, SUMS = "state.json", "trainable.safetensors", "optimizer.safetensors", "SHA256SUMS"
AVERAGE = "average.safetensors"  # only if the training keeps an average
FROZEN = "frozen.safetensors"  # only if a part of the soft prompt is frozen
OPTIONAL = (AVERAGE, FROZEN)
# In the order of their deletion: a folder with a state is known as ours.
FILES = (SUMS, TRAINABLE, OPTIMIZER, *OPTIONAL, STATE)
NAME = re.compile(r"step-(\d{6,})", re.ASCII)
LEFTOVER = re.compile(r"\.step-\d{6,}\.\d+\.tmp", re.ASCII)


class DamagedError(Exception):
    """A checkpoint is damaged; the text is the reason."""


def checkpoint_folders(folder: Path) -> dict[int, Path]:
    """Return the folders that may be a run's checkpoints, by step; copies under other names are the user's."""
    with one_line(folder):
        places = list(folder.iterdir()) if folder.is_dir() else []
        named = [(step, p) for p in places if (step := _step_of(p)) is not None]
        return {step: place for step, place in named if any((place / name).exists() for name in FILES)}


def _step_of(place: Path) -> int | None:
    """Return the step in the name of a checkpoint's folder; None for any other path."""
    match = NAME.fullmatch(place.name)
    if not match or place.name != f"step-{int(match[1]):06d}" or place.is_symlink() or not place.is_dir():
        return None
    return int(match[1])


def is_ours(place: Path) -> bool:
    """Return whether a folder is certainly a checkpoint that a run wrote under this name."""
    step = _step_of(place)
    try:
        return step is not None and state_of(place)["progress"]["step"] == step
    except DamagedError:
        return False


def remove(place: Path) -> None:
    """Delete a checkpoint's own files, and its folder if nothing else is in it, such as a folder in a file's place."""
    for name in FILES:
        if (place / name).is_symlink() or not (place / name).is_dir():
            (place / name).unlink(missing_ok=True)
    if not any(place.iterdir()):
        place.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Delete unfinished checkpoints of runs that were killed while they wrote them."""
    for place in folder.glob(".step-*.tmp"):
        if LEFTOVER.fullmatch(place.name) and place.is_dir():
            remove(place)


def write_sums(place: Path) -> None:
    """Write the checksums of a new checkpoint, and wait until all of its files are on the disk."""
    names = [name for name in (STATE, TRAINABLE, OPTIMIZER, *OPTIONAL) if (place / name).exists()]
    sums = [f"{sha256_of(place / name)}  {name}\n" for name in names]
    (place / SUMS).write_text("".join(sums), encoding="utf-8")
    for file in place.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def make_room(target: Path) -> None:
    """Delete an earlier checkpoint of the same step; a folder that is not a checkpoint gets another name."""
    if is_ours(target):
        remove(target)
    if os.path.lexists(target):
        names = (f"{target.name}.kept-{n}" for n in range(1, 1000))
        free = next(name for name in names if not os.path.lexists(target.with_name(name)))
        target.rename(target.with_name(free))
        warn(f"{target} is not a checkpoint of this run: moved to {free}")


def checked_state(found: Mapping[int, Path], step: int) -> dict[str, Any]:
    """Return the state of a checkpoint after a check of all its files.

    Raises:
        DamagedError: a file has changed, or the checkpoint is missing; UserError: as `state_of`.
    """
    if step not in found:
        raise DamagedError(f"step-{step:06d} is missing")
    place = found[step]
    if (place / SUMS).is_file():
        lines = _read(place / SUMS).decode("ascii", "replace").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        for name in (STATE, TRAINABLE, OPTIMIZER, *(name for name in OPTIONAL if name in sums)):
            if not (place / name).is_file():
                raise DamagedError(f"{place.name} has no {name}")
            if sums.get(name) != sha256_of(place / name):
                raise DamagedError(f"{name} of {place.name} is damaged")
    record = state_of(place)
    if record.get("format", 1) > 1 and not (place / SUMS).is_file():
        raise DamagedError(f"{place.name} has no {SUMS}")
    if record["progress"]["step"] != step:
        raise DamagedError(f"{place.name} is a copy of step {record['progress']['step']}")
    return record


def state_of(place: Path) -> dict[str, Any]:
    """Read a checkpoint's JSON.

    Raises:
        DamagedError: it is missing or broken; UserError: a newer version of this package wrote it.
    """
    try:
        record: dict[str, Any] = json.loads(_read(place / STATE))
        if record.get("format", 1) > FORMAT:
            raise UserError(f"{place}: a newer version of softprompts wrote this checkpoint; update the package")
        progress = record["progress"]
        whole = all(isinstance(progress[key], int) for key in ("step", "best_step")) and "best_value" in progress
        numbers, groups = record["optimizer"]["numbers"], record["optimizer"]["param_groups"]
        whole = whole and isinstance(progress["best_value"], int | float | None)
        whole = whole and all(isinstance(entry, dict) for entry in progress.get("history", []))
        whole = whole and isinstance(record["scheduler"]["last_epoch"], int)
        whole = whole and all(isinstance(values, dict) and key.isdecimal() for key, values in numbers.items())
        whole = whole and all(isinstance(group["params"], list) for group in groups)
        if not whole or not _are_inputs(record.get("inputs")):
            raise TypeError
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedError(f"{STATE} of {place.name} is damaged") from None
    return record


def _are_inputs(inputs: Any) -> bool:
    """Return whether these are fingerprints that `fingerprints.changes` can compare; the first version had none."""
    if inputs is None:
        return True
    if not isinstance(inputs, dict) or "schema" not in inputs:
        return False
    data, base, maps = inputs.get("data"), inputs.get("base"), [inputs.get("metrics"), inputs.get("code")]
    if not isinstance(data, dict) or not isinstance(base, dict) or not all(isinstance(m, dict) for m in maps):
        return False
    rows = [data.get(split) for split in SPLITS]
    return (
        all(isinstance(split, dict) and {"rows", "sha256", "tokens"} <= split.keys() for split in rows)
        and {"dtype", "weights"} <= base.keys()
        and isinstance(base.get("config"), dict)
    )


def _read(file: Path) -> bytes:
    if not file.is_file():
        raise DamagedError(f"{file.parent.name} has no {file.name}")
    with one_line(file):
        return file.read_bytes()


def sha256_of(file: Path) -> str:
    with one_line(file), file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
