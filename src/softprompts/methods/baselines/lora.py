"""LoRA: low-rank matrices that are added to the weights (Hu et al. 2021)."""

from __future__ import annotations

from itertools import chain
from typing import Any, cast

from softprompts.config.methods import LoraConfig
from softprompts.errors import UserError
from softprompts.methods.attach import as_peft, for_base, refused_by_peft
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
            would work only after certain tokens; a trained token has no embedding; PEFT refuses the config.
    """
    with refused_by_peft("lora"):
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
    _check_tokens(base, wanted.trainable_token_indices)
    with refused_by_peft("lora"):
        return peft_model(base, for_base(wanted, base))


def _check_tokens(base: PreTrainedModel, trained: list[int] | dict[str, list[int]] | None) -> None:
    """Raise `UserError` for a token without an embedding: PEFT would end with an IndexError, or count from the end."""
    lists = trained.values() if isinstance(trained, dict) else [trained or []]
    rows = len(cast(torch.Tensor, base.get_input_embeddings().weight))
    for token in chain(*lists):
        if not 0 <= token < rows:
            raise UserError(
                f"lora.trainable_token_indices: the base model has no embedding of token {token}; expected 0 to "
                f"{rows - 1}"
            )


def smallest(base: Any, settings: LoraConfig | None) -> Any:
    """Add low-rank matrices to a base model, by the settings if there are any, for `preflight`."""
    return add_lora(base, settings or LoraConfig(target_modules="all-linear"))
