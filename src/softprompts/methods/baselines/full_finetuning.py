"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from typing import Any

from softprompts.errors import UserError

from transformers import PreTrainedModel

WHOLE_WEIGHTS = "model.quantization: full fine-tuning needs whole weights; set it to none, or take lora.py"


def train_everything(base: PreTrainedModel) -> PreTrainedModel:
    """Let every weight of the model train; dropout, where the model has any, stays off.

    Raises:
        UserError: a quantised model, whose weights are no numbers that a gradient could move.
    """
    if getattr(base, "is_quantized", False):
        raise UserError(WHOLE_WEIGHTS)
    return base.requires_grad_(True)


def smallest(base: Any, _: Any) -> Any:
    """Put nothing on a base model, as small as it goes: for `preflight`."""
    return base
