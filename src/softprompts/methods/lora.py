"""Methods that change a model's weights: LoRA, and full fine-tuning."""

from __future__ import annotations

from softprompts.errors import UserError
from softprompts.methods.attach import for_base

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

INITS = (True, False, "gaussian", "orthogonal")


def add_lora(base: PreTrainedModel, config: LoraConfig, seed: int | None = None) -> PeftModel:
    """Put trainable low-rank matrices, float32, beside the weights that `target_modules` names (Hu et al. 2021).

    They stand inside the layers of `base`, which may be quantised (QLoRA, Dettmers et al. 2023). An encoder's
    classifier trains, too, and is saved with them.

    Raises:
        UserError: no such modules; a rank below 1; initial values that touch the base model; tokens that
            it waits for; what else PEFT refuses.
    """
    if config.init_lora_weights not in INITS:
        raise UserError(
            f'lora.init_lora_weights: "{config.init_lora_weights}" changes the base model\'s weights, or needs data to '
            "begin with; take true, false, gaussian or orthogonal"
        )
    if config.alora_invocation_tokens:
        raise UserError(
            "lora.alora_invocation_tokens: LoRA would work only behind these tokens, and no prompt gets them"
        )
    if seed is not None:
        torch.manual_seed(seed)
    try:
        model = get_peft_model(base, for_base(config, base))
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"lora: {' '.join(str(error).split())}") from None
    assert isinstance(model, PeftModel)
    return model
