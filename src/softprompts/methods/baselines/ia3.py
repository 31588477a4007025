"""IA3: learned factors for keys, values and inner activations (Liu et al. 2022), a baseline with few parameters."""

from __future__ import annotations

from typing import Any

from softprompts.config.methods import IA3Config
from softprompts.methods.attach import as_peft, for_base, refused_by_peft
from softprompts.models.peft_compat import peft_model

import peft
from peft import PeftModel
from transformers import PreTrainedModel


def add_ia3(base: PreTrainedModel, config: IA3Config) -> PeftModel:
    """Add trainable factors, float32, to the layers in `target_modules` (Liu et al. 2022, section 3.3).

    The factors scale a layer's outputs, (output size, 1), or its inputs if `feedforward_modules` names it, (1, input
    size). All start at one, so the model starts as the base model. `base` may be quantised. An encoder's classifier is
    also trained and saved.

    Raises:
        UserError: a module is missing; PEFT has no default modules for the architecture; feed-forward modules are not
            among the target modules; PEFT refuses the config.
    """
    with refused_by_peft("ia3"):
        return peft_model(base, for_base(as_peft(config, peft.IA3Config), base))


def smallest(base: Any, settings: IA3Config | None) -> Any:
    """Add factors to a base model, by the settings if there are any, for `preflight`."""
    return add_ia3(base, settings or IA3Config(target_modules="all-linear", feedforward_modules=[]))
