"""P-tuning: a small network writes the embeddings of the virtual tokens (Liu et al. 2021)."""

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
    """Put a trainable prompt encoder on a frozen base model: an MLP, or an LSTM with an MLP behind it.

    It trains in float32, begins at values that `seed` decides, and is needed in training only: what is saved are the
    embeddings that it writes (num_virtual_tokens, hidden size).

    Raises:
        UserError: as `attach`; a setting that the chosen network does not have.
    """
    if config.encoder_reparameterization_type == PromptEncoderReparameterizationType.MLP:
        # PEFT ignores both without an error.
        for name in ("encoder_num_layers", "encoder_dropout"):
            default = PromptEncoderConfig.__dataclass_fields__[name].default
            if getattr(config, name) != default:
                raise UserError(f"prompt.{name}: an MLP has none to set; it is the LSTM's")
    return attach(base, as_peft(config, PromptEncoderConfig), section="prompt", seed=seed)


def smallest(base: Any, _: Any) -> Any:
    """Put a prompt encoder on a base model, as small as it goes: for `preflight`."""
    return add_prompt_encoder(base, EncoderConfig(num_virtual_tokens=2, encoder_hidden_size=8))
