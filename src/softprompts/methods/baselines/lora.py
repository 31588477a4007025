"""LoRA: low-rank matrices that are added to the weights (Hu et al. 2021)."""

from __future__ import annotations

from typing import Any

from softprompts.config.methods import LoraConfig
from softprompts.errors import UserError
from softprompts.methods.attach import as_peft, for_base
from softprompts.models.peft_compat import peft_model

import peft
import torch
from peft import PeftModel
from transformers import PreTrainedModel

INITS = (True, False, "gaussian", "orthogonal")


def add_lora(base: PreTrainedModel, config: LoraConfig | peft.LoraConfig, *, seed: int | None = None) -> PeftModel:
    """Add trainable low-rank matrices, float32, to the weights of the layers in `target_modules`.

    The matrices are inside the layers of `base`, which may be quantised (QLoRA, Dettmers et al. 2023). An encoder's
    classifier is also trained and saved.

    Raises:
        UserError: a module is missing; the rank is below 1; initial values would change the base model; the matrices
            would work only after certain tokens; PEFT refuses the config.
    """
    wanted = as_peft(config, peft.LoraConfig)
    if wanted.init_lora_weights not in INITS:
        raise UserError(
            f'lora.init_lora_weights: "{wanted.init_lora_weights}" changes the base model\'s weights, or needs data to '
            "start; set it to true, false, gaussian or orthogonal"
        )
    if wanted.alora_invocation_tokens:
        raise UserError(
            "lora.alora_invocation_tokens: LoRA would work only after these tokens, and prompts do not get them here"
        )
    if seed is not None:
        torch.manual_seed(seed)
    try:
        return peft_model(base, for_base(wanted, base))
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"lora: {' '.join(str(error).split())}") from None


def smallest(base: Any, settings: LoraConfig | None) -> Any:
    """Add low-rank matrices to a base model, by the settings if there are any, for `preflight`."""
    return add_lora(base, settings or LoraConfig(target_modules="all-linear"))
