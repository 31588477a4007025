"""Several cartridges, or prefixes, of one base model as one: their keys and values one after the other."""

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
    """Write a stock PEFT adapter with the keys and values of all these, in their order, along the positions.

    A text sees all of them, and follows at the position after the last. Each was trained as if it were alone: their
    keys keep the positions that they were trained at (Eyuboglu et al. 2025, composition by concatenation). Of a
    cartridge's frozen first tokens those of the first one stay frozen, as in PEFT.

    Args:
        paths: two or more adapters, as `adapter.path` names them: all cartridges, or all prefixes.
        output: folder to write, which must be new or empty.

    Returns:
        The number of virtual tokens.

    Raises:
        UserError: fewer than two; no adapter there, or a damaged one; another kind of adapter, or one with a
            classifier; adapters of different kinds, sizes or base models; more virtual tokens than the base model has
            positions.
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
    """An adapter that holds keys and values; values: float32 (P, layers * 2 * groups * head size)."""

    folder: Path
    config: Any
    record: Record
    values: torch.Tensor


def read_part(folder: Path) -> Part:
    """Return a cartridge or a prefix as it is on disk.

    Raises:
        UserError: a damaged adapter, or one of another kind; a prefix that a network writes; further tensors, of a
            classifier say.
    """
    config: Any = read_config(folder)
    if not isinstance(config, (CartridgeConfig, PrefixTuningConfig)):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise UserError(f"adapter.path: {folder} is of type {kind}: only cartridges and prefixes hold keys and values")
    if getattr(config, "prefix_projection", False):
        raise UserError(
            f"adapter.path: {folder}: a network writes this prefix; take one that is saved as it was written"
        )
    tensors = read_weights(folder)
    if others := sorted(tensors.keys() - {VALUES}):
        raise UserError(f"adapter.path: {folder} holds {listed(others)} as well; expected keys and values alone")
    values = tensors.get(VALUES)
    if values is None or values.dim() != 2 or len(values) != config.num_virtual_tokens:
        raise UserError(f"adapter.path: {folder} does not hold {config.num_virtual_tokens} rows of {VALUES}")
    return Part(folder, config, read_record(folder), values.float())


def _check_alike(part: Part, first: Part) -> None:
    sizes = [{key: getattr(one.config, key) for key in SAME} | {"width": one.values.shape[1]} for one in (part, first)]
    for key, ours in sizes[0].items():
        theirs = sizes[1][key]
        if ours != theirs:
            ours, theirs = (getattr(value, "value", value) for value in (ours, theirs))
            raise UserError(f"adapter.path: {part.folder}: its {key} is {ours}, and that of {first.folder} is {theirs}")
    one, other = part.record.base, first.record.base
    names = [each.config.base_model_name_or_path or "no model that it names" for each in (part, first)]
    same = same_weights(one, other) if one and other else same_name(*names)
    if same is False:
        raise UserError(
            f"adapter.path: {part.folder} was trained on {names[0]}, and {first.folder} on another model, {names[1]}"
        )


def _check_room(first: Part, count: int) -> None:
    """Raise `UserError` if the base model, as far as its config is recorded, has no position left for a text."""
    config = first.record.base.config if first.record.base else {}
    positions = config.get("text_config", config).get("max_position_embeddings")
    if isinstance(positions, int) and count >= positions:
        raise UserError(
            f"adapter.path: {count} virtual tokens together leave no room in the {positions} positions of the model"
        )
