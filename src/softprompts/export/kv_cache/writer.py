"""Write a trained prefix as keys and values for an engine's cache (Li and Liang 2021, section 4.1).

PEFT puts a prefix into the cache as it is, and a text continues at the position after it. An engine that has read as
many tokens as the prefix has positions is in the same state, if its cache has the prefix in their place. Those tokens
are placeholders, which the engine never computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from softprompts.adapters.composition import read_part
from softprompts.errors import UserError
from softprompts.export.agreement import Outcome, Trained, compare, greedy, load_prefixes, logits_after
from softprompts.export.kv_cache.prefixes import (
    RUN,
    Prefix,
    placeholders_of,
    read_prefixes,
    read_states,
    write_prefix,
    write_states,
)
from softprompts.export.sources import Job, Source, naming
from softprompts.models.bundled import portable_name
from softprompts.models.identity.base_model import Identity, identity_of, weights_of
from softprompts.models.identity.facts import facts_of
from softprompts.models.identity.weights import files_agree

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def write_kv_cache(job: Job, folder: Path) -> list[str]:
    """Write each prefix as `TASK.safetensors` and `TASK.json`, compare it with stock PEFT, and return lines about it.

    The check reads a text after the files' keys and values, as an engine does.

    Raises:
        UserError: the base model is not a decoder; a reserved id is not a token, or occurs twice; an adapter has
            another type, or `write_one` refuses it; a check fails.
    """
    base, tokenizer, trained = load_prefixes(job)
    _check_reserved(job.config.reserved or (), tokenizer)
    identity, names = facts_of(base).identity or identity_of(base, tokenizer=tokenizer), tuple(weights_of(base))
    identity = replace(identity, name=portable_name(identity.name))
    same = files_agree(str(base.name_or_path), job.model.revision, names, identity.weights)
    for each in trained:
        with naming(each.source):
            write_one(each, identity, names if same is True else (), tokenizer, folder, job.config.reserved)
    prefixes = {prefix.name: prefix for prefix in read_prefixes(folder)}
    lines = [_check(job, folder, base, tokenizer, each, prefixes[each.source.name]) for each in trained]
    if same is not True:
        why = same or "its files have other weights than transformers loads from them"
        lines.append(f"an engine cannot tell this base model from others with the same config: {why}")
    return lines


def _check(
    job: Job,
    folder: Path,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    trained: Trained,
    prefix: Prefix,
) -> str:
    states = [tensor.to(base.device, base.dtype).transpose(1, 2) for tensor in read_states(prefix, folder)]

    def cache() -> DynamicCache:
        """Return the prefix as a cache, (1, heads, P, head size) in each layer."""
        return DynamicCache([(keys[None], values[None]) for keys, values in zip(*states, strict=True)])

    def found_of(ids: list[int], outcome: Outcome) -> Outcome:
        whole = [*prefix.placeholder_ids, *ids]
        read = torch.tensor([whole], device=base.device)
        made = greedy(base, tokenizer, job.config.max_new_tokens, input_ids=read, past_key_values=cache())
        count = len(outcome.tokens)
        logits = logits_after(base, [*ids, *outcome.tokens], count, prefix.tokens, past_key_values=cache())
        return Outcome(made[len(whole) :], logits)

    return compare(trained, "kv_cache", found_of, base.dtype)


def write_one(
    trained: Trained,
    identity: Identity,
    weight_names: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    reserved: Sequence[int] | None = None,
) -> None:
    """Write a prefix, or a cartridge, as `NAME.safetensors` and `NAME.json` into a folder of exported prefixes.

    Args:
        trained: the adapter, with its name there.
        identity: identity of the base model.
        weight_names: names in the order of the identity's digests; empty if the base model's files have other names.
        tokenizer: the base model's tokenizer.
        folder: the output folder, which may have other prefixes.
        reserved: token ids that no text contains, for the placeholders. By default the tokenizer's special tokens
            without a role. Tokens of a chat template, and tokens that begin, end or pad a text, have a role.

    Raises:
        UserError: the adapter is damaged or too short, or a network computes it; there are fewer than two reserved ids.
    """
    keys, values = _states_of_adapter(trained.source)
    ids = tuple(reserved if reserved is not None else reserved_ids(tokenizer))
    if len(set(ids)) < 2:
        raise UserError(
            f"export.reserved: {tokenizer.name_or_path} has {len(ids)} special tokens without a role; name two or more "
            "token ids that no text contains"
        )
    name = trained.source.name
    digest = write_states(keys, values, folder / f"{name}.safetensors")
    placeholders = placeholders_of(digest, keys.shape[1], ids)
    prefix = Prefix(
        name,
        tokens=keys.shape[1],
        layers=keys.shape[0],
        heads=keys.shape[2],
        head_size=keys.shape[3],
        placeholder_ids=placeholders,
        placeholder_text=_text_of(placeholders, tokenizer),
        reserved_ids=ids,
        base_model=asdict(identity),
        weight_names=tuple(weight_names),
        sha256=digest,
        task=asdict(trained.reading),
    )
    write_prefix(prefix, folder)


def _states_of_adapter(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and the values of an adapter, float32 (layers, P, groups, head size) each."""
    part = read_part(source.folder)
    if len(part.values) < RUN:
        raise UserError(f"adapter.path: {part.folder} has {len(part.values)} virtual tokens; expected {RUN} or more")
    return states_of(part.values, part.config)


def states_of(values: torch.Tensor, config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values, (layers, P, groups, head size) each, from the tensor that PEFT saves.

    Args:
        values: (P, layers * 2 * groups * head size), the keys of each layer before its values.
        config: the PEFT config.
    """
    head_size = config.token_dim // config.num_attention_heads
    shaped = values.view(len(values), config.num_layers, 2, config.num_attention_heads, head_size)
    keys, values = shaped.permute(2, 1, 0, 3, 4)
    return keys, values


def reserved_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of special tokens without a role: not those that begin, end or pad a text or form a chat."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    roles = {str(token) for token in tokenizer.special_tokens_map.values()}
    return sorted(
        id_
        for id_, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content not in roles and token.content not in template
    )


def _check_reserved(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` for ids that are not tokens, or that occur twice."""
    known = set(tokenizer.get_vocab().values())
    for number, id_ in enumerate(ids):
        if id_ not in known:
            raise UserError(
                f"export.reserved: {id_} is no token of {tokenizer.name_or_path}; its ids are 0 to {max(known)}"
            )
        if id_ in ids[:number]:
            raise UserError(f"export.reserved: {id_} occurs twice; keep one of them")


def _text_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a text that always becomes these ids before another text; None if there is none."""
    text = "".join(tokenizer.convert_ids_to_tokens(list(ids)))
    read = tokenizer(f"{text}a", add_special_tokens=False)["input_ids"]
    return text if read == [*ids, *tokenizer("a", add_special_tokens=False)["input_ids"]] else None
