"""Check and claim the output folder of a run, and compare the settings when a run is resumed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from softprompts.config.paths import ADAPTER, MODEL
from softprompts.config.sections import RunConfig
from softprompts.errors import RunFinished, UserError
from softprompts.system import locks
from softprompts.system.files import expanded, is_file, read_bytes, remove_leftovers, write_atomically

CONFIG_FILE = "config.json"
LOGS = "logs"
RESULT_FILE = "result.json"
COMPARE_FILE = "compare.json"  # the result of a comparison
WITHOUT_FILE = "without.txt"  # fingerprints of rows to leave out; recipes/forget.py writes it before the run starts
# Files of a run that was killed at its start: its lock, and an incomplete config.
LEFTOVER = re.compile(rf"{re.escape(locks.LOCK)}(\..+)?|\.config\.\d+\.tmp\.json", re.ASCII)
# Keys of config.json in addition to the settings.
RECIPE, OUTPUTS, RESUMED = "recipe", "outputs", "resumed"
# Settings that may change on resume: they do not affect training, or change numbers only by rounding. `training.on_nan`
# only affects steps that are still to come.
FREE = {"evaluation.batch_size", "evaluation.bootstrap_resamples", "evaluation.split", "training.on_nan"}
ROUNDING = {"model.engine", "model.gradient_checkpointing", "training.micro_batch_tokens"}
DRAWN = {"model.engine", "training.micro_batch_tokens"}  # with dropout they draw other numbers, not others by rounding
ANSWERS = {"evaluation.max_new_tokens", "evaluation.stop"}  # free unless predictions choose the checkpoint


# The settings that changed on resume: at this resume, and at all resumes of the run.
Changes = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def folder_of(config: RunConfig) -> Path:
    """Return the folder of a run.

    Raises:
        UserError: the setting is an empty text, or a path that cannot be expanded.
    """
    if not config.output_dir.strip():
        raise UserError("run.output_dir: expected a folder, found an empty text")
    return Path(expanded("run.output_dir", config.output_dir))


def finished(folder: Path) -> RunFinished:
    """Return the exception for a run that already has its result."""
    return RunFinished(f"{folder} contains a finished run; nothing to do")


def is_finished(folder: Path, record: dict[str, Any], arguments: dict[str, Any]) -> bool:
    """Return whether the run in a folder has its result. Nothing is written.

    Args:
        folder: the folder, which need not exist.
        record: content of the run's future config.json: the recipe and its settings.
        arguments: the recipe's dataclass arguments by name, including `run`.

    Raises:
        UserError: a run can neither start nor continue there, or not with these settings.
    """
    resume = arguments["run"].resume
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"run.output_dir: {folder} is {_what_is(folder)}")
    if not folder.is_dir():
        return False
    done = any((folder / name).is_file() for name in (RESULT_FILE, COMPARE_FILE))
    if resume and done and (before := record_of(folder)):
        for change in _changed(folder, before, record, arguments):
            raise UserError(
                f"--resume: {folder} contains a finished run with {change['key']} {change['was']} instead of "
                f"{change['is']}; use recipes/evaluate.py to score its output with other settings"
            )
        return True
    if not (folder / locks.LOCK).exists():  # otherwise the error names its owner
        names, begun = _look(folder, resume)
        if begun and not names <= {CONFIG_FILE, LOGS}:
            _changed(folder, begun, record, arguments)
    return False


def claim(folder: Path, recipe: str, settings: dict[str, Any], arguments: dict[str, Any]) -> Changes | None:
    """Claim the folder and return the changed settings; None if its run has its result.

    Raises:
        UserError: see `start_run`.
    """
    record = {RECIPE: recipe} | settings
    # Before the lock, so that nothing is ever written into a foreign folder.
    if is_finished(folder, record, arguments):
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.output_dir: cannot make {folder}: {error.strerror}") from error
    except RecursionError:
        raise UserError(f"run.output_dir: {len(folder.parts)} nested folders are too many") from None
    new = locks.own(folder)
    try:
        return _begin(folder, record, arguments)
    except BaseException:
        if new:
            locks.release(folder)
        raise


def not_ours(path: Path) -> UserError:
    """Return the error for a user's file where a run must write."""
    return UserError(f"{path} is not from this run; move it away, then --resume")


def _what_is(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"a link to {path.readlink()}, which does not exist"
    return "a file" if path.is_file() else "not a folder"


def _refusal(folder: Path, resume: bool) -> UserError:
    if not resume:
        return UserError(f"run.output_dir: {folder} is not empty; choose another folder, or continue with --resume")
    reason = f"its {CONFIG_FILE} is not from a run" if (folder / CONFIG_FILE).exists() else f"it has no {CONFIG_FILE}"
    return UserError(f"run.output_dir: {folder} has no run to resume: {reason}")


def _look(folder: Path, resume: bool) -> tuple[set[str], dict[str, Any] | None]:
    """Return the names in a folder and the config.json of the run in it, if there is one.

    Raises:
        UserError: a run can neither start nor continue there.
    """
    names = {p.name for p in folder.iterdir() if p.name != WITHOUT_FILE and not LEFTOVER.fullmatch(p.name)}
    try:
        record = record_of(folder)
    except UserError:
        if resume:
            raise
        record = None
    ours = record and isinstance(record.get("run"), dict)  # another program's file may have the key "recipe" as well
    if names and not (ours and (resume or names <= {CONFIG_FILE, LOGS})):
        raise _refusal(folder, resume)
    return names, record


def _begin(folder: Path, record: dict[str, Any], arguments: dict[str, Any]) -> Changes:
    """Start a run in a claimed folder, or continue the run in it."""
    names, before = _look(folder, arguments["run"].resume)
    _remove_leftovers(folder, before or {})
    if before is None or names <= {CONFIG_FILE, LOGS}:  # it failed before its first checkpoint, so nothing is lost
        write_atomically(folder / CONFIG_FILE, json.dumps(record | {OUTPUTS: []}, indent=2))
        return [], []
    fixed = MODEL if record[RECIPE] == "full_finetuning" else ADAPTER
    if "training" in record and fixed not in before.get(OUTPUTS, [fixed]) and os.path.lexists(folder / fixed):
        raise not_ours(folder / fixed)  # now, and not when it is written
    changed = _changed(folder, before, record, arguments)
    resumed = before.get(RESUMED, []) + changed
    if changed:
        kept = {key: before[key] for key in (OUTPUTS,) if key in before} | {RESUMED: resumed}
        write_atomically(folder / CONFIG_FILE, json.dumps(record | kept, indent=2))
    return changed, resumed


def _remove_leftovers(folder: Path, record: dict[str, Any]) -> None:
    """Delete temporary files of a run that was killed while it wrote one of its own files."""
    listed = record.get(OUTPUTS)
    outputs = [n for n in listed if isinstance(n, str) and Path(n).name == n] if isinstance(listed, list) else []
    for name in (CONFIG_FILE, RESULT_FILE, COMPARE_FILE, *outputs, *(f"{name}/README.md" for name in outputs)):
        remove_leftovers(folder / name)


def _drops(settings: dict[str, Any]) -> bool:
    """Return whether training drops values or positions at random."""
    return any(value and ("dropout" in key) for key, value in leaves(settings))


def _changed(
    folder: Path, before: dict[str, Any], record: dict[str, Any], arguments: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the settings that have changed and may change.

    Raises:
        UserError: a setting has changed that may not change.
    """
    old, new = (dict(leaves(json.loads(json.dumps(tree)))) for tree in (before, record))
    for key in (OUTPUTS, RESUMED):
        old.pop(key, None)
    defaults = dict(leaves(json.loads(json.dumps(_defaults(arguments)))))
    training = record.get("training")
    answers = ANSWERS if training is None or training["best_by"] == "loss" else set()
    rounding = ROUNDING if not _drops(record) else ROUNDING - DRAWN
    changed, refused = [], []
    for key in sorted(old.keys() | new.keys(), key=lambda k: (k == "run.seed", k)):
        # An older version without the setting behaved as with its default.
        was, now = old.get(key, defaults.get(key)), new.get(key)
        if was == now or (key.startswith("run.") and key != "run.seed"):
            continue
        # An older version kept all fields of PEFT's configs, including those that are not settings.
        if key not in new and key.partition(".")[0] in ("prompt", "prefix", "lora"):
            continue
        if key in FREE | rounding | answers:
            changed.append({"key": key, "was": was, "is": now})
        else:
            refused.append(f"{key} was {was!r} and is now {now!r}")
    if refused:
        raise UserError(f"--resume: the settings of {folder} have changed: {'; '.join(refused)}")
    return changed


def _defaults(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of the settings' dataclasses as plain values."""
    made: dict[str, Any] = {}
    for name, value in arguments.items():
        for item in fields(value):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            if default is not MISSING:
                made.setdefault(name, {})[item.name] = plain(default)
    return made


def record_of(folder: Path) -> dict[str, Any] | None:
    """Return the config.json of a run; None if it is missing or not from a run.

    Raises:
        UserError: it is incomplete or cannot be read.
    """
    file = folder / CONFIG_FILE
    if not is_file(file):
        return None
    try:
        record = json.loads(read_bytes(file))
    except ValueError as error:
        raise UserError(f"{file}: is damaged, or not from a run: {error}") from None
    return record if isinstance(record, dict) and RECIPE in record else None


def plain(value: Any) -> Any:
    """Convert settings to JSON values: dataclasses into dicts, enums into their values, sets into sorted lists."""
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
    if type(value).__module__ == "torch":  # a dtype; importing torch only for this would take seconds
        return str(value)
    return value


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every leaf of nested dicts; a list is one leaf, as text."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), str(tree) if isinstance(tree, list) else tree
