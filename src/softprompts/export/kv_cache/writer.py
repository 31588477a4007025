"""A trained prefix as the keys and values that an engine's cache holds (Li and Liang 2021, section 4.1).

PEFT puts a prefix into the cache as it is, and a text goes on at the position after it. An engine that has read as many
tokens as the prefix is long is in the same state, if its cache holds the prefix in their place. Those tokens are
placeholders: the engine never computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from softprompts.adapters.composition import read_part
from softprompts.adapters.loading import find_adapter
from softprompts.errors import UserError, settings_named
from softprompts.export.kv_cache.prefixes import RUN, Prefix, placeholders_of, write_prefix, write_states
from softprompts.system.files import one_line

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def export_prefix(
    adapter: str, tokenizer: PreTrainedTokenizerBase, folder: Path, name: str, reserved: Sequence[int] | None = None
) -> Prefix:
    """Write a prefix, or a cartridge, as `NAME.safetensors` and `NAME.json` into a folder of exported prefixes.

    Args:
        adapter: a stock PEFT adapter, as `adapter.path` names it.
        tokenizer: the base model's.
        folder: where it goes, beside others.
        name: what it is called there; an earlier one of that name is replaced.
        reserved: token ids that no text holds, which placeholders are drawn from. By default the tokenizer's special
            tokens that have no role: the tokens of a chat template, and those that begin, end or pad a text, have one.

    Raises:
        UserError: no adapter there, or a damaged one; one that holds no keys and values; one too short; fewer than two
            reserved ids; a place that cannot be written.
    """
    with settings_named({"adapter.path": "export.adapter"}):
        part = read_part(find_adapter(adapter))
    if len(part.values) < RUN:
        raise UserError(f"export.adapter: {part.folder} has {len(part.values)} virtual tokens; expected {RUN} or more")
    width = part.config.num_layers * 2 * part.config.token_dim
    if part.values.shape[1] != width:
        raise UserError(
            f"export.adapter: {part.folder} holds rows of {part.values.shape[1]} numbers; its config asks for {width}"
        )
    ids = tuple(reserved if reserved is not None else reserved_ids(tokenizer))
    if len(set(ids)) < 2:
        raise UserError(
            f"export.reserved: {tokenizer.name_or_path} has {len(ids)} special tokens without a role; name two or more "
            "token ids that no text holds"
        )
    keys, values = states_of(part.values, part.config)
    with one_line(folder):
        folder.mkdir(parents=True, exist_ok=True)
    digest = write_states(keys, values, folder / f"{name}.safetensors")
    placeholders = placeholders_of(digest, keys.shape[1], ids)
    base = part.record.base
    prefix = Prefix(
        name,
        tokens=keys.shape[1],
        layers=keys.shape[0],
        heads=keys.shape[2],
        head_size=keys.shape[3],
        placeholder_ids=placeholders,
        placeholder_text=_text_of(placeholders, tokenizer),
        reserved_ids=ids,
        base_model=asdict(base) if base else {"name": part.config.base_model_name_or_path},
        sha256=digest,
    )
    write_prefix(prefix, folder)
    return prefix


def states_of(values: torch.Tensor, config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and the values, (layers, P, groups, head size) both, of what PEFT saves.

    Args:
        values: (P, layers * 2 * groups * head size), of each layer the keys first.
        config: its PEFT config.
    """
    head_size = config.token_dim // config.num_attention_heads
    shaped = values.view(len(values), config.num_layers, 2, config.num_attention_heads, head_size)
    keys, values = shaped.permute(2, 1, 0, 3, 4)
    return keys, values


def reserved_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a tokenizer's special tokens that neither begin, end or pad a text nor form a conversation."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    roles = {str(token) for token in tokenizer.special_tokens_map.values()}
    return sorted(
        id_
        for id_, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content not in roles and token.content not in template
    )


def _text_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a text that becomes these ids in front of any other text, None if there is none."""
    text = "".join(tokenizer.convert_ids_to_tokens(list(ids)))
    read = tokenizer(f"{text}a", add_special_tokens=False)["input_ids"]
    return text if read == [*ids, *tokenizer("a", add_special_tokens=False)["input_ids"]] else None
