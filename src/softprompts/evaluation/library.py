"""Index a library of trained soft prompts, and find the nearest ones to a task.

    python -m softprompts.evaluation.library runs --like runs/new_task

The task embedding of Vu et al. (2022), "SPoT", section 3.2, is a prompt after a short training on the task. The prompts
nearest to it are likely to be good initial values (`prompt.init_adapter`, `prefix.init_adapter`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from softprompts.adapters.checks import read_weights
from softprompts.adapters.configs import CONFIG, read_config
from softprompts.adapters.loading import find_adapter, run_settings
from softprompts.adapters.transfer import VALUES
from softprompts.errors import UserError, settings_named
from softprompts.models.identity.base_model import read_record, same_weights
from softprompts.system.files import write_atomically
from softprompts.system.logs import print_log

import torch

INDEX = "index.json"


@dataclass(frozen=True)
class Entry:
    """A trained soft prompt of a library: its folder, PEFT's type, base model, and the task if it is known."""

    path: str
    type: str
    num_virtual_tokens: int
    base: str
    task: str


@dataclass(frozen=True)
class Near:
    """A soft prompt of a library, and the cosine of its mean virtual token with that of a task's."""

    entry: Entry
    similarity: float


def write_index(library: str) -> list[Entry]:
    """Write `index.json` into a folder: all soft prompts and prefixes below it. Return the entries.

    Raises:
        UserError: the folder is missing or has no soft prompts; one of them is damaged.
    """
    folder = Path(library).expanduser()
    entries = []
    for place in sorted(file.parent for file in folder.glob(f"**/{CONFIG}")):
        settings: Any = read_config(place)
        if not settings.is_prompt_learning:
            continue
        task = run_settings(str(place)).get("task", {})
        name = task.get("name") or task.get("dataset") or Path(task.get("train") or "").stem
        kind, base = getattr(settings.peft_type, "value", settings.peft_type), settings.base_model_name_or_path or ""
        path = str(place.relative_to(folder))
        entries.append(Entry(path, str(kind), settings.num_virtual_tokens, base, name))
    if not entries:
        raise UserError(f"library: {library} has no soft prompts or prefixes below it")
    written = json.dumps({"adapters": [asdict(entry) for entry in entries]}, indent=2, ensure_ascii=False)
    write_atomically(folder / INDEX, written + "\n")
    return entries


def read_index(library: str) -> list[Entry]:
    """Return the entries of a library's index.

    Raises:
        UserError: the index is missing or damaged.
    """
    file = Path(library).expanduser() / INDEX
    try:
        return [Entry(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))["adapters"]]
    except FileNotFoundError:
        command = f"python -m softprompts.evaluation.library {library}"
        raise UserError(f"library: no such file: {file}; make it with {command}") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"library: {file} is damaged: {error}; write it again") from None


def nearest_adapters(adapter: str, library: str) -> list[Near]:
    """Return the soft prompts of a library that a task could start from, the nearest first.

    Vu et al. (2022), section 3.2, compare tasks by the cosine of the means over the virtual tokens, so lengths may
    differ. Other types, widths and known other base models are left out, as is the adapter itself.

    Args:
        adapter: folder of a soft prompt after a short training on the task, or of its run, or a Hub id.
        library: folder with an index.

    Raises:
        UserError: the adapter is missing or has no virtual tokens; the index is missing or outdated; nothing to
            compare.
    """
    own = find_adapter(adapter)
    kind, mean, base = read_config(own).peft_type, _mean(own), read_record(own).base
    found = []
    for entry in read_index(library):
        with settings_named({"adapter.path": "library"}):
            place = find_adapter(str(Path(library).expanduser() / entry.path))
            other, its_base = _mean(place), read_record(place).base
        strange = base is not None and its_base is not None and same_weights(base, its_base) is False
        if entry.type == kind and other.shape == mean.shape and not strange and place.resolve() != own.resolve():
            found.append(Near(entry, torch.cosine_similarity(mean, other, dim=0).item()))
    if not found:
        raise UserError(f"library: {library} has no adapter with the type, width and base model of {own}")
    return sorted(found, key=lambda near: -near.similarity)


def _mean(folder: Path) -> torch.Tensor:
    """Return the mean of an adapter's virtual tokens, float64 (W,)."""
    tensors = read_weights(folder)
    if VALUES not in tensors:
        raise UserError(f"adapter.path: {folder} has no virtual tokens to compare")
    return tensors[VALUES].double().mean(dim=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the index of a library; print it, or the nearest soft prompts to an adapter; return the exit code."""
    parser = argparse.ArgumentParser("python -m softprompts.evaluation.library", description=__doc__.splitlines()[0])
    parser.add_argument("library", help="folder with adapters or runs below it, for the index.json")
    parser.add_argument("--like", help="an adapter after a short training on a task, or its run")
    arguments = parser.parse_args(argv)
    print_log()
    try:
        entries = write_index(arguments.library)
        near = nearest_adapters(arguments.like, arguments.library) if arguments.like else None
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for entry in entries if near is None else []:
        print(f"{entry.path}: {entry.type}, {entry.num_virtual_tokens} virtual tokens, {entry.task or 'unknown task'}")
    for one in near or []:
        print(f"{one.similarity:+.3f}  {one.entry.path} ({one.entry.task or 'unknown task'})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
