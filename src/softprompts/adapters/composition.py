"""Join cartridges or prefixes of one base model into one adapter by concatenating their keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from softprompts.adapters.checks import WEIGHTS, read_weights
from softprompts.adapters.configs import read_config
from softprompts.adapters.loading import find_adapter
from softprompts.errors import UserError, listed, settings_named
from softprompts.models.identity.base_model import Record, read_record, same_name, same_weights, write_record
from softprompts.system.files import check_new, filling

import torch
from peft import CartridgeConfig, PrefixTuningConfig
from safetensors.torch import save_file

VALUES = "prompt_embeddings"  # PEFT's name for keys and values (P, layers * 2 * groups * head size)
SAME = ("peft_type", "task_type", "num_layers", "token_dim", "num_attention_heads", "num_transformer_submodules")


def compose(paths: Sequence[str], output: Path) -> int:
    """Write a stock PEFT adapter that concatenates the keys and values of several adapters along the positions.

    A text attends to all of them, and its own positions follow the last one. Each adapter was trained alone, so its
    keys keep the positions of training (Eyuboglu et al. 2025, composition by concatenation). As in PEFT, only the
    frozen first tokens of the first cartridge stay frozen.

    Args:
        paths: two or more adapters, each given as for `adapter.path`: all cartridges, or all prefixes.
        output: folder to write, which must be new or empty.

    Returns:
        The number of virtual tokens.

    Raises:
        UserError: fewer than two adapters; one that is missing, damaged, of another kind, or has a classifier; adapters
            of different kinds, sizes or base models; more virtual tokens than the base model has positions.
    """
    if len(paths) < 2:
        raise UserError(f"compose.adapters: expected two or more, found {len(paths)}")
    check_new("compose.output_dir", output)
    with settings_named({"adapter.path": "compose.adapters"}):
        parts = [read_part(find_adapter(path)) for path in paths]
        for part in parts[1:]:
            _check_alike(part, parts[0])
        whole = torch.cat([part.values for part in parts])
        _check_room(parts[0], len(whole))
    with filling(output) as temporary:
        replace(parts[0].config, num_virtual_tokens=len(whole)).save_pretrained(str(temporary))
        save_file({VALUES: whole}, temporary / WEIGHTS, {"format": "pt"})
        write_record(temporary, parts[0].record.base, None)
    return len(whole)


class Part(NamedTuple):
    """An adapter of keys and values. `values` is float32 with shape (P, layers * 2 * groups * head size)."""

    folder: Path
    config: Any
    record: Record
    values: torch.Tensor


def read_part(folder: Path) -> Part:
    """Return a cartridge or a prefix from disk.

    Raises:
        UserError: the adapter is damaged or of another kind; a network computes the prefix; the file has further
            tensors, for example those of a classifier.
    """
    config: Any = read_config(folder)
    if not isinstance(config, (CartridgeConfig, PrefixTuningConfig)):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise UserError(f"adapter.path: {folder} is of type {kind}: expected a cartridge or a prefix")
    if getattr(config, "prefix_projection", False):
        raise UserError(
            f"adapter.path: {folder}: a network computes this prefix; expected one without prefix_projection"
        )
    tensors = read_weights(folder)
    if others := sorted(tensors.keys() - {VALUES}):
        raise UserError(f"adapter.path: {folder} also contains {listed(others)}; expected only keys and values")
    values = tensors.get(VALUES)
    if values is None or values.dim() != 2 or len(values) != config.num_virtual_tokens:
        raise UserError(f"adapter.path: {folder} lacks {config.num_virtual_tokens} rows of {VALUES}")
    return Part(folder, config, read_record(folder), values.float())


def _check_alike(part: Part, first: Part) -> None:
    sizes = [{key: getattr(one.config, key) for key in SAME} | {"width": one.values.shape[1]} for one in (part, first)]
    for key, ours in sizes[0].items():
        theirs = sizes[1][key]
        if ours != theirs:
            ours, theirs = (getattr(value, "value", value) for value in (ours, theirs))
            raise UserError(f"adapter.path: {part.folder}: {key} is {ours}, but {first.folder} has {theirs}")
    one, other = part.record.base, first.record.base
    names = [each.config.base_model_name_or_path or "an unnamed model" for each in (part, first)]
    same = same_weights(one, other) if one and other else same_name(*names)
    if same is False:
        raise UserError(f"adapter.path: {part.folder} was trained on {names[0]}, but {first.folder} on {names[1]}")


def _check_room(first: Part, count: int) -> None:
    """Raise `UserError` if the base model's recorded config leaves no position for a text."""
    config = first.record.base.config if first.record.base else {}
    positions = config.get("text_config", config).get("max_position_embeddings")
    if isinstance(positions, int) and count >= positions:
        raise UserError(
            f"adapter.path: {count} virtual tokens together leave no room in the model's {positions} positions"
        )
