"""Prefix tuning: learned keys and values in front of every layer's own (Li and Liang 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softprompts.config.methods import PrefixConfig
from softprompts.errors import UserError
from softprompts.methods.attach import as_peft, attach, text_ids
from softprompts.methods.parametrization import parametrize_prefix
from softprompts.models.loading import kind_of

import torch
from peft import PeftModel, PrefixTuningConfig, initialize_kv_prefix_from_past_key_values
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def add_prefix(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PrefixConfig, *, seed: int | None = None
) -> PeftModel:
    """Put a trainable prefix, float32 (num_virtual_tokens, layers * 2 * groups * head size), on a frozen base model.

    With `prefix_projection` a two-layer network of `encoder_hidden_size` writes it (Li and Liang, section 4.3), which
    is needed in training only. An encoder's classifier trains and is saved with it (P-tuning v2, Liu et al. 2022).

    Raises:
        UserError: as `attach` and `parametrize_prefix`; a text for a model that continues none, or that it keeps no
            keys and values of.
    """
    if config.init_text is not None and kind_of(base.config) != "decoder":
        raise UserError("prefix.init_text: needs a decoder, whose keys and values of a text stand for that text")
    model = attach(base, as_peft(config, PrefixTuningConfig), section="prefix", seed=seed)
    if config.init_text is not None:
        count = model.active_peft_config.num_virtual_tokens
        ids = text_ids(tokenizer, config.init_text, count, "prefix.init_text")
        try:
            begin_as(model, ids)
        except (ValueError, TypeError) as error:
            raise UserError(f"prefix.init_text: {error}; set it to null to begin at random") from None
    parametrize_prefix(model, config)
    return model


@torch.no_grad()
def begin_as(model: PeftModel, ids: Sequence[int]) -> None:
    """Give a prefix of P positions the keys and values that the base model computes of P tokens.

    Raises:
        ValueError, TypeError: layers that keep fewer positions, or no keys and values.
    """
    base: Any = model.get_base_model()
    cache = base(torch.tensor([ids], device=base.device), use_cache=True).past_key_values
    initialize_kv_prefix_from_past_key_values(model, past_key_values=cache)


def smallest(base: Any, _: Any) -> Any:
    """Put a prefix on a base model, as small as it goes: for `preflight`."""
    return attach(base, PrefixTuningConfig(num_virtual_tokens=2), section="prefix", seed=None)
