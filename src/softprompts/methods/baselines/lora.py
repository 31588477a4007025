"""LoRA: low-rank matrices beside the weights (Hu et al. 2021)."""

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
    """Put trainable low-rank matrices, float32, beside the weights that `target_modules` names (Hu et al. 2021).

    They stand inside the layers of `base`, which may be quantised (QLoRA, Dettmers et al. 2023). An encoder's
    classifier trains, too, and is saved with them.

    Raises:
        UserError: no such modules; a rank below 1; initial values that touch the base model; tokens that
            it waits for; what else PEFT refuses.
    """
    wanted = as_peft(config, peft.LoraConfig)
    if wanted.init_lora_weights not in INITS:
        raise UserError(
            f'lora.init_lora_weights: "{wanted.init_lora_weights}" changes the base model\'s weights, or needs data to '
            "begin with; take true, false, gaussian or orthogonal"
        )
    if wanted.alora_invocation_tokens:
        raise UserError(
            "lora.alora_invocation_tokens: LoRA would work only behind these tokens, and no prompt gets them"
        )
    if seed is not None:
        torch.manual_seed(seed)
    try:
        return peft_model(base, for_base(wanted, base))
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"lora: {' '.join(str(error).split())}") from None


def smallest(base: Any, settings: LoraConfig | None) -> Any:
    """Put low-rank matrices on a base model, by the settings if there are any: for `preflight`."""
    return add_lora(base, settings or LoraConfig(target_modules="all-linear"))
