"""P-tuning: a small network computes the embeddings of the virtual tokens (Liu et al. 2021)."""

from __future__ import annotations

from typing import Any

from softprompts.config.methods import EncoderConfig
from softprompts.errors import UserError
from softprompts.methods.attach import as_peft, attach

from peft import PeftModel, PromptEncoderConfig, PromptEncoderReparameterizationType
from transformers import PreTrainedModel


def add_prompt_encoder(
    base: PreTrainedModel, config: EncoderConfig | PromptEncoderConfig, *, seed: int | None = None
) -> PeftModel:
    """Add a trainable prompt encoder to a frozen base model: an MLP, or an LSTM followed by an MLP.

    It is trained in float32 from values that `seed` decides. Only training uses it: the embeddings that it computes are
    saved, (num_virtual_tokens, hidden size).

    Raises:
        UserError: as `attach`; the chosen network does not have a setting.
    """
    if config.encoder_reparameterization_type == PromptEncoderReparameterizationType.MLP:
        # PEFT ignores both without an error.
        for name in ("encoder_num_layers", "encoder_dropout"):
            default = PromptEncoderConfig.__dataclass_fields__[name].default
            if getattr(config, name) != default:
                raise UserError(f"prompt.{name}: applies only to encoder_reparameterization_type: LSTM")
    return attach(base, as_peft(config, PromptEncoderConfig), section="prompt", seed=seed)


def smallest(base: Any, _: Any) -> Any:
    """Add a small prompt encoder to a base model, for `preflight`."""
    return add_prompt_encoder(base, EncoderConfig(num_virtual_tokens=2, encoder_hidden_size=8))
