"""IA3: learned factors of keys, values and inner activations (Liu et al. 2022), a baseline of few parameters."""

from __future__ import annotations

from typing import Any

from softprompts.config.methods import IA3Config
from softprompts.errors import UserError
from softprompts.methods.attach import as_peft, for_base
from softprompts.models.peft_compat import peft_model

import peft
from peft import PeftModel
from transformers import PreTrainedModel


def add_ia3(base: PreTrainedModel, config: IA3Config) -> PeftModel:
    """Put trainable factors, float32, on the layers that `target_modules` names (Liu et al. 2022, section 3.3).

    A layer's outputs are multiplied, (output size, 1), or its inputs if `feedforward_modules` names it, (1, input
    size). All begin at one, so that the model begins as the base model. `base` may be quantised. An encoder's
    classifier trains, too, and is saved with them.

    Raises:
        UserError: no such modules; an architecture that PEFT knows no modules for, if none are named; inner layers that
            are not among the layers; what else PEFT refuses.
    """
    try:
        return peft_model(base, for_base(as_peft(config, peft.IA3Config), base))
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"ia3: {' '.join(str(error).split())}") from None


def smallest(base: Any, settings: IA3Config | None) -> Any:
    """Put factors on a base model, by the settings if there are any: for `preflight`."""
    return add_ia3(base, settings or IA3Config(target_modules="all-linear", feedforward_modules=[]))
