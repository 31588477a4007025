"""Prefix tuning: learned keys and values before those of the text in every layer (Li and Liang 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softprompts.config.methods import PrefixConfig
from softprompts.errors import UserError
from softprompts.methods.attach import (
    FROM_TEXT,
    as_peft,
    attach,
    check_loaded,
    normal_values,
    set_start,
    text_ids,
    unknown_token,
)
from softprompts.methods.initial_text import initial_text, sampled_text
from softprompts.methods.parametrization import parametrize_prefix
from softprompts.models.loading import kind_of, max_positions
from softprompts.system.files import text_or_file
from softprompts.tasks.task import Task

import torch
from peft import PeftModel, PrefixTuningConfig, prompt_embeddings_from_past_key_values
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

SAMPLE = 256  # tokens of train for the mean and deviation of keys and values
TEXTS = ("instruction", *FROM_TEXT)  # initial values from a text of the task


def add_prefix(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: PrefixConfig,
    *,
    seed: int | None = None,
    task: Task | None = None,
    start: torch.Tensor | None = None,
) -> PeftModel:
    """Add a trainable prefix, float32 (num_virtual_tokens, layers * 2 * groups * head size), to a base model.

    With `prefix_projection` a two-layer network of `encoder_hidden_size` computes it (Li and Liang, section 4.3), in
    training only. An encoder's classifier is trained and saved with it (P-tuning v2, Liu et al. 2022).

    Args:
        base: the base model.
        tokenizer: its tokenizer.
        config: the prefix.
        seed: seed of random values.
        task: the task, for initial values from a text.
        start: initial values from `load_start`, for `init_adapter`.

    Raises:
        UserError: as `attach`; a text requires a decoder whose layers keep keys and values; the file of a text cannot
            be read; as `initial_text` and `parametrize_prefix`; the initial values have another shape, or the config's
            adapter was not read.
    """
    key = "prefix.init_text" if config.init_from is None else f"prefix.init_from: {config.init_from}"
    reads = config.init_text is not None or config.init_from in (*TEXTS, "normal")
    if reads and kind_of(base.config) != "decoder":
        raise UserError(f"{key}: requires a decoder, for which keys and values of a text replace the text")
    check_loaded(config, start)
    zero = {"init_weights": "zero"} if config.init_from == "zero" else {}
    model = attach(base, as_peft(config, PrefixTuningConfig, **zero), section="prefix", seed=seed)
    set_start(model, start, "prefix.init_adapter")
    if reads:
        set_start(model, _values_of_text(base, tokenizer, config, task, key), key)
    parametrize_prefix(model, config)
    return model


def _values_of_text(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PrefixConfig, task: Task | None, key: str
) -> torch.Tensor:
    count, source = config.num_virtual_tokens, config.init_from
    text = None if config.init_text is None else text_or_file("prefix.init_text", config.init_text)
    if source == "normal":
        ids = sampled_text(tokenizer, task, 1 + SAMPLE, key)[: max_positions(base)]
    else:
        if source is not None:
            text = initial_text(source, task, tokenizer, count, first=text, section="prefix")
        weight: Any = base.get_input_embeddings().weight
        at_end = source == "demonstrations"
        ids = text_ids(tokenizer, text, count, key, fill=config.init_fill, at_end=at_end, vocabulary=len(weight))
    try:
        found = keys_and_values(base, ids)
    except (ValueError, TypeError) as error:
        raise UserError(f"{key}: {error}; set it to null for random initial values") from None
    # The first token gets surplus attention, and has unusual keys and values (Xiao et al. 2024).
    return normal_values(found[1:], count) if source == "normal" else found


@torch.no_grad()
def keys_and_values(base: Any, ids: Sequence[int]) -> torch.Tensor:
    """Return the keys and values of T tokens in a base model's layers, (T, layers * 2 * groups * head size).

    Raises:
        ValueError, TypeError: layers keep fewer positions, or no keys and values; a token has no embedding.
    """
    if unknown := unknown_token(base, ids):
        raise ValueError(unknown)
    cache = base(torch.tensor([ids], device=base.device), use_cache=True).past_key_values
    # In Gemma 3n the upper layers reuse those of a lower one, and linear attention has none.
    if any(getattr(layer, "keys", None) is None for layer in getattr(cache, "layers", ())):
        raise ValueError("some layers keep no keys and values of their own")
    return prompt_embeddings_from_past_key_values(cache, num_virtual_tokens=len(ids)).float()


def smallest(base: Any, _: Any) -> Any:
    """Add a small prefix to a base model, for `preflight`."""
    return attach(base, PrefixTuningConfig(num_virtual_tokens=2), section="prefix", seed=None)
