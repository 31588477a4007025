"""Exported prefixes on disk, and which of them a prompt asks for by its first tokens.

Each prefix is `NAME.safetensors` with its keys and values, and `NAME.json` with what they are. An engine imports this
module in an environment of its own: it needs neither PEFT nor transformers.
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
# So many reserved tokens in a row are placeholders: no text has them.
RUN = 8


@dataclass(frozen=True)
class Prefix:
    """What an exported prefix is.

    tokens, layers, heads, head_size: its sizes; heads are those of keys and values. placeholder_ids: the token ids that
    a prompt begins with to get this prefix, `tokens` of them. placeholder_text: a text that the tokenizer makes these
    ids of, None if there is none. reserved_ids: the ids that placeholders are drawn from. base_model: the model that it
    was trained on, as `base_model.json` beside an adapter describes it. weight_names: of that model's weights, in the
    order of their digests; empty if its files have other names. sha256: digest of the safetensors file. task: how the
    task reads texts, for a client.
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
    """Return the placeholder ids of a prefix: they follow from its values.

    An engine's prefix cache knows a prompt by its token ids. Other values must therefore have other ids.

    Args:
        sha256: digest of the prefix's file.
        count: number of its tokens.
        reserved: token ids that no text holds, two or more.
    """
    stream = hashlib.shake_256(sha256.encode()).digest(count)
    return tuple(reserved[byte % len(reserved)] for byte in stream)


def write_states(keys: torch.Tensor, values: torch.Tensor, file: Path) -> str:
    """Write keys and values (layers, tokens, heads, head size) as safetensors, and return the file's SHA-256."""
    with replacing(file) as temporary:
        save_file({"keys": keys.contiguous(), "values": values.contiguous()}, temporary)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_prefix(prefix: Prefix, folder: Path) -> None:
    """Write `NAME.json`, which `read_prefixes` reads."""
    record = {"format": FORMAT} | asdict(prefix)
    write_atomically(folder / f"{prefix.name}.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def read_prefixes(folder: Path) -> list[Prefix]:
    """Return the prefixes of a folder, by name.

    Raises:
        UserError: no prefix there; a damaged description; one of another format; two prefixes whose placeholders
            begin alike, so that a prompt could mean either.
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
        raise UserError(f"{file}: is no description of a prefix, or is damaged: {str(error).splitlines()[0]}") from None
    if prefix.name != file.stem:
        raise UserError(f"{file}: describes a prefix of another name, {prefix.name}")
    if prefix.placeholder_ids != placeholders_of(prefix.sha256, prefix.tokens, prefix.reserved_ids):
        raise UserError(f"{file}: its placeholder ids do not follow from its digest; export the prefix again")
    return prefix


def read_states(prefix: Prefix, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a prefix's keys and values, (layers, tokens, heads, head size) both.

    Raises:
        UserError: no such file; a file that was changed since; tensors of other sizes.
    """
    file = folder / f"{prefix.name}.safetensors"
    content = read_bytes(file)
    if hashlib.sha256(content).hexdigest() != prefix.sha256:
        raise UserError(f"{file}: was changed after {prefix.name}.json was written; export the prefix again")
    try:
        tensors = load(content)
        keys, values = tensors["keys"], tensors["values"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{file}: holds no keys and values: {error}") from None
    shape = (prefix.layers, prefix.tokens, prefix.heads, prefix.head_size)
    if keys.shape != shape or values.shape != shape:
        raise UserError(f"{file}: expected keys and values of shape {shape}, found {tuple(keys.shape)}")
    return keys, values


def find_prefix(prompt: Sequence[int], prefixes: Collection[Prefix]) -> Prefix | None:
    """Return the prefix whose placeholders a prompt begins with; None if it asks for none.

    Raises:
        UserError: placeholders that are of no known prefix, or are not at the start; nothing after the placeholders.
    """
    found = next((p for p in prefixes if tuple(prompt[: p.tokens]) == p.placeholder_ids), None)
    start = found.tokens if found else 0
    place = _run_of({id_ for p in prefixes for id_ in p.reserved_ids}, prompt, start)
    if place is not None:
        what = f"follow the prefix {found.name}" if found else "are of no prefix" if place == 0 else "are not its start"
        raise UserError(
            f"the placeholders at position {place} of the prompt {what}; a prompt begins with all placeholders of one "
            f"of these prefixes: {listed(p.name for p in prefixes)}"
        )
    if found and len(prompt) == start:
        raise UserError(f"the prompt has no token after the placeholders of the prefix {found.name}")
    return found


def _run_of(ids: Collection[int], prompt: Sequence[int], start: int) -> int | None:
    """Return where `RUN` of these ids in a row begin in a prompt, at `start` or later; None if they do not."""
    length = 0
    for place in range(start, len(prompt)):
        length = length + 1 if prompt[place] in ids else 0
        if length == RUN:
            return place - RUN + 1
    return None
