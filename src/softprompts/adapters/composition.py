"""Several cartridges, or prefixes, of one base model as one: their keys and values side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from softprompts.adapters.checks import WEIGHTS, read_weights
from softprompts.adapters.configs import read_config
from softprompts.adapters.loading import find_adapter
from softprompts.errors import UserError
from softprompts.models.identity import Record, read_record, same_name, same_weights, write_record
from softprompts.system.files import filling

import torch
from peft import CartridgeConfig, PrefixTuningConfig
from safetensors.torch import save_file

VALUES = "prompt_embeddings"  # PEFT's name for keys and values (P, layers * 2 * groups * head size)
SAME = ("peft_type", "task_type", "num_layers", "token_dim", "num_attention_heads", "num_transformer_submodules")


def compose(paths: Sequence[str], output: Path) -> None:
    """Write a stock PEFT adapter with the keys and values of all these, in their order, along the positions.

    A text sees all of them, and follows at the position behind the last. Each was trained as if it were alone: their
    keys keep the positions that they were trained at (Eyuboglu et al. 2025, composition by concatenation). Of a
    cartridge's frozen first tokens those of the first one stay frozen, as in PEFT.

    Args:
        paths: two or more adapters, as `adapter.path` names them: all cartridges, or all prefixes.
        output: folder to write, which must be new or empty.

    Raises:
        UserError: fewer than two; no adapter there, or a damaged one; another kind of adapter; adapters of different
            kinds, sizes or base models.
    """
    if len(paths) < 2:
        raise UserError(f"a composition is of two adapters or more, found {len(paths)}")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} holds something already; name a new folder")
    parts = [_read(find_adapter(path)) for path in paths]
    for part in parts[1:]:
        _check_alike(part, parts[0])
    first, whole = parts[0], torch.cat([part.values for part in parts])
    with filling(output) as temporary:
        replace(first.config, num_virtual_tokens=len(whole)).save_pretrained(str(temporary))
        save_file({VALUES: whole}, temporary / WEIGHTS, {"format": "pt"})
        write_record(temporary, first.record.base, None)


class _Part(NamedTuple):
    """An adapter of a composition; values: float32 (P, layers * 2 * groups * head size)."""

    folder: Path
    config: Any
    record: Record
    values: torch.Tensor


def _read(folder: Path) -> _Part:
    config: Any = read_config(folder)
    if not isinstance(config, (CartridgeConfig, PrefixTuningConfig)):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise UserError(f"{folder} is a {kind} adapter: only cartridges and prefixes hold keys and values")
    if getattr(config, "prefix_projection", False):
        raise UserError(f"{folder}: its config has a network that writes the prefix, which this project folds away")
    tensors = read_weights(folder)
    if VALUES not in tensors or len(tensors[VALUES]) != config.num_virtual_tokens:
        raise UserError(f"{folder}: {WEIGHTS} does not hold {config.num_virtual_tokens} rows of {VALUES}")
    return _Part(folder, config, read_record(folder), tensors[VALUES].float())


def _check_alike(part: _Part, first: _Part) -> None:
    for key in SAME:
        ours, theirs = (getattr(one.config, key) for one in (part, first))
        if ours != theirs:
            ours, theirs = (getattr(value, "value", value) for value in (ours, theirs))
            raise UserError(f"{part.folder}: its {key} is {ours}, and that of {first.folder} is {theirs}")
    one, other = part.record.base, first.record.base
    names = [each.config.base_model_name_or_path or "no model that it names" for each in (part, first)]
    same = same_weights(one, other) if one and other else same_name(*names)
    if same is False:
        raise UserError(f"{part.folder} was trained on {names[0]}, and {first.folder} on another model, {names[1]}")
