"""Read and write exported prefixes, and find the prefix that a prompt requests by its first tokens.

Each prefix is `NAME.safetensors` with its keys and values, and `NAME.json` with their description. An engine imports
this module in its own environment, so it requires neither PEFT nor transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, listed
from softprompts.system.files import read_bytes, replacing, write_atomically

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

FORMAT = 2
# This number of reserved tokens in sequence means placeholders, because no text has them.
RUN = 8


@dataclass(frozen=True)
class Prefix:
    """The description of an exported prefix.

    tokens, layers, heads, head_size: its sizes; heads are those of keys and values. placeholder_ids: `tokens` token ids
    at the beginning of a prompt that request this prefix. placeholder_text: a text with these ids, or None.
    reserved_ids: the ids that placeholders are drawn from. base_model: the model of its training, described as in an
    adapter's `base_model.json`. weight_names: names of that model's weights, in the order of their digests; empty if
    its files have other names. sha256: digest of the safetensors file. task: the task's `Reading`, for a client.
    """

    name: str
    tokens: int
    layers: int
    heads: int
    head_size: int
    placeholder_ids: tuple[int, ...]
    placeholder_text: str | None
    reserved_ids: tuple[int, ...]
    base_model: dict[str, Any]
    weight_names: tuple[str, ...]
    sha256: str
    task: dict[str, Any]


def placeholders_of(sha256: str, count: int, reserved: Sequence[int]) -> tuple[int, ...]:
    """Return the placeholder ids of a prefix, which follow from its values.

    An engine's prefix cache identifies a prompt by its token ids, so other values must have other ids.

    Args:
        sha256: digest of the prefix's file.
        count: number of placeholders.
        reserved: two or more token ids that no text contains.
    """
    stream = hashlib.shake_256(sha256.encode()).digest(count)
    return tuple(reserved[byte % len(reserved)] for byte in stream)


def write_states(keys: torch.Tensor, values: torch.Tensor, file: Path) -> str:
    """Write keys and values (layers, tokens, heads, head size) as safetensors, and return the file's SHA-256."""
    with replacing(file) as temporary:
        save_file({"keys": keys.contiguous(), "values": values.contiguous()}, temporary)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_prefix(prefix: Prefix, folder: Path) -> None:
    """Write `NAME.json` for `read_prefixes`."""
    record = {"format": FORMAT} | asdict(prefix)
    write_atomically(folder / f"{prefix.name}.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def read_prefixes(folder: Path) -> list[Prefix]:
    """Return the prefixes of a folder, by name.

    Raises:
        UserError: the folder has no prefix; a description is damaged or has another format; the placeholders of two
            prefixes begin alike, so that a prompt could mean either.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: holds no exported prefix, NAME.json and NAME.safetensors")
    prefixes = [_read(file) for file in files]
    for one in prefixes:
        for other in prefixes:
            if one is not other and other.placeholder_ids[: one.tokens] == one.placeholder_ids:
                raise UserError(f"{folder}: the placeholders of {other.name} begin with those of {one.name}")
    return prefixes


def _read(file: Path) -> Prefix:
    try:
        read: dict[str, Any] = json.loads(read_bytes(file))
        if read.pop("format") != FORMAT:
            raise UserError(f"{file}: its format is not {FORMAT}; export the prefix again")
        ids = {key: tuple(map(int, read[key])) for key in ("placeholder_ids", "reserved_ids")}
        names = tuple(map(str, read["weight_names"]))
        prefix = Prefix(**(read | ids | {"weight_names": names}))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{file}: is not a description of a prefix, or is damaged: {str(error).splitlines()[0]}"
        ) from None
    if prefix.name != file.stem:
        raise UserError(f"{file}: describes a prefix of another name, {prefix.name}")
    if prefix.placeholder_ids != placeholders_of(prefix.sha256, prefix.tokens, prefix.reserved_ids):
        raise UserError(f"{file}: its placeholder ids do not follow from its digest; export the prefix again")
    return prefix


def read_states(prefix: Prefix, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a prefix's keys and values, (layers, tokens, heads, head size) both.

    Raises:
        UserError: the file is missing or was changed; its tensors have other sizes.
    """
    file = folder / f"{prefix.name}.safetensors"
    content = read_bytes(file)
    if hashlib.sha256(content).hexdigest() != prefix.sha256:
        raise UserError(f"{file}: was changed after {prefix.name}.json was written; export the prefix again")
    try:
        tensors = load(content)
        keys, values = tensors["keys"], tensors["values"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{file}: has no keys and values: {error}") from None
    shape = (prefix.layers, prefix.tokens, prefix.heads, prefix.head_size)
    if keys.shape != shape or values.shape != shape:
        raise UserError(f"{file}: expected keys and values of shape {shape}, found {tuple(keys.shape)}")
    return keys, values


def find_prefix(prompt: Sequence[int], prefixes: Collection[Prefix]) -> Prefix | None:
    """Return the prefix whose placeholders a prompt begins with; None if it requests none.

    Raises:
        UserError: the placeholders are unknown or not at the start; nothing follows them.
    """
    found = next((p for p in prefixes if tuple(prompt[: p.tokens]) == p.placeholder_ids), None)
    start = found.tokens if found else 0
    place = _run_of({id_ for p in prefixes for id_ in p.reserved_ids}, prompt, start)
    if place is not None:
        what = f"follow the prefix {found.name}" if found else "are unknown" if place == 0 else "are not at its start"
        raise UserError(
            f"the placeholders at position {place} of the prompt {what}; expected a prompt that begins with all "
            f"placeholders of one of these prefixes: {listed(p.name for p in prefixes)}"
        )
    if found and len(prompt) == start:
        raise UserError(f"the prompt has no token after the placeholders of the prefix {found.name}")
    return found


def _run_of(ids: Collection[int], prompt: Sequence[int], start: int) -> int | None:
    """Return the first place, from `start` on, of `RUN` of these ids in sequence; None if there is none."""
    length = 0
    for place in range(start, len(prompt)):
        length = length + 1 if prompt[place] in ids else 0
        if length == RUN:
            return place - RUN + 1
    return None
