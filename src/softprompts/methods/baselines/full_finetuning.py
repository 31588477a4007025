"""Full fine-tuning: train every weight."""

from __future__ import annotations

from typing import Any

from softprompts.errors import UserError

from transformers import PreTrainedModel

WHOLE_WEIGHTS = "model.quantization: full fine-tuning requires unquantised weights; set it to none, or use lora.py"


def train_everything(base: PreTrainedModel) -> PreTrainedModel:
    """Make every weight of the model trainable; dropout stays off, if the model has any.

    Raises:
        UserError: the model is quantised, so that its weights cannot have gradients.
    """
    if getattr(base, "is_quantized", False):
        raise UserError(WHOLE_WEIGHTS)
    return base.requires_grad_(True)


def smallest(base: Any, _: Any) -> Any:
    """Return the base model unchanged, for `preflight`."""
    return base
