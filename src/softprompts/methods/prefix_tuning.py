"""Prefix tuning: learned keys and values in front of every layer's own (Li and Liang 2021)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from softprompts.errors import UserError
from softprompts.methods.attach import attach, text_ids
from softprompts.models.loading import kind_of

import torch
from peft import PeftModel, PrefixTuningConfig
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass
class PrefixConfig(PrefixTuningConfig):
    """PEFT's PrefixTuningConfig and a text to start from.

    Args:
        init_text: begin with the keys and values that the base model computes of this text; it is cut or repeated to
            num_virtual_tokens. Without it they begin at random, or at zero with `init_weights: zero`.

    Raises:
        UserError: a text together with a projection, or with zeros.
    """

    init_text: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # Now, and not after a download.
        if self.init_text is not None and self.prefix_projection:
            raise UserError(
                "prefix.init_text: not with prefix_projection: keys and values cannot be put back through the network; "
                "set init_text to null, or prefix_projection to false"
            )
        if self.init_text is not None and self.init_weights == "zero":
            raise UserError("prefix.init_text: not with init_weights: zero; set one of them to null")


def add_prefix(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PrefixConfig, seed: int | None = None
) -> PeftModel:
    """Put a trainable prefix, float32 (num_virtual_tokens, layers * 2 * groups * head size), on a frozen base model.

    With `prefix_projection` a two-layer network of `encoder_hidden_size` writes it (Li and Liang, section 4.3), which
    is needed in training only. An encoder's classifier trains and is saved with it (P-tuning v2, Liu et al. 2022).

    Raises:
        UserError: as `attach`; a text for a model that continues none, or that it keeps no keys and values of.
    """
    if config.init_text is not None and kind_of(base.config) != "decoder":
        raise UserError("prefix.init_text: needs a decoder, whose keys and values of a text stand for that text")
    plain = {f.name: getattr(config, f.name) for f in fields(PrefixTuningConfig) if f.init}
    model = attach(base, PrefixTuningConfig(**plain), "prefix", seed)
    if config.init_text is not None:
        count = model.active_peft_config.num_virtual_tokens
        ids = text_ids(tokenizer, config.init_text, count, "prefix.init_text")
        with torch.no_grad():
            cache: Any = base(torch.tensor([ids], device=base.device), use_cache=True).past_key_values
        try:
            initialize_kv_prefix_from_past_key_values(model, past_key_values=cache)
        except (ValueError, TypeError) as error:  # layers that keep fewer positions, or no keys and values
            raise UserError(f"prefix.init_text: {error}; set it to null to begin at random") from None
    return model
