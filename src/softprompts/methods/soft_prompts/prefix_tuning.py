"""Prefix tuning: learned keys and values in front of every layer's own (Li and Liang 2021)."""

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

SAMPLE = 256  # tokens of train whose keys and values say how large these are
TEXTS = ("instruction", *FROM_TEXT)  # ways to start from a text that the task gives


def add_prefix(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: PrefixConfig,
    *,
    seed: int | None = None,
    task: Task | None = None,
    start: torch.Tensor | None = None,
) -> PeftModel:
    """Put a trainable prefix, float32 (num_virtual_tokens, layers * 2 * groups * head size), on a frozen base model.

    With `prefix_projection` a two-layer network of `encoder_hidden_size` writes it (Li and Liang, section 4.3), which
    is needed in training only. An encoder's classifier trains and is saved with it (P-tuning v2, Liu et al. 2022).

    Args:
        base: the base model.
        tokenizer: its tokenizer.
        config: the prefix.
        seed: of what is drawn.
        task: what it is for: a text to start from is made of it.
        start: values to begin with, as `load_start` reads them for `init_adapter`.

    Raises:
        UserError: as `attach`; a text, or its deviation, of a model that continues none, or that it keeps no keys and
            values of; a file of a text that cannot be read; what `initial_text` and `parametrize_prefix` raise; values
            of another shape, or none of the adapter of the config.
    """
    key = "prefix.init_text" if config.init_from is None else f"prefix.init_from: {config.init_from}"
    reads = config.init_text is not None or config.init_from in (*TEXTS, "normal")
    if reads and kind_of(base.config) != "decoder":
        raise UserError(f"{key}: needs a decoder, whose keys and values of a text do what the text does")
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
        raise UserError(f"{key}: {error}; set it to null to begin at random") from None
    # The first token takes the attention that no other gets, and has keys and values of its own (Xiao et al. 2024).
    return normal_values(found[1:], count) if source == "normal" else found


@torch.no_grad()
def keys_and_values(base: Any, ids: Sequence[int]) -> torch.Tensor:
    """Return what a base model's layers keep of T tokens, float32 (T, layers * 2 * groups * head size).

    Raises:
        ValueError, TypeError: layers that keep fewer positions, or no keys and values.
    """
    cache = base(torch.tensor([ids], device=base.device), use_cache=True).past_key_values
    return prompt_embeddings_from_past_key_values(cache, num_virtual_tokens=len(ids)).float()


def smallest(base: Any, _: Any) -> Any:
    """Put a prefix on a base model, as small as it goes: for `preflight`."""
    return attach(base, PrefixTuningConfig(num_virtual_tokens=2), section="prefix", seed=None)
