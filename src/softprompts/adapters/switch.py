"""Switch an adapter off for a while, to get the base model's output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from softprompts.models.identity.facts import facts_of
from softprompts.models.loading import kind_of
from softprompts.models.peft_compat import without_prompt

from peft import PeftModel
from transformers import PreTrainedModel


def has_base(model: PreTrainedModel | PeftModel) -> bool:
    """Return whether switching off the adapter restores the base model."""
    return facts_of(model).kept


@contextmanager
def without_adapter(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Within this context, a model that `has_base` computes the output of its base model."""
    if not isinstance(model, PeftModel):
        yield
        return
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    base: Any = model.get_base_model()
    prompt = model.active_peft_config.is_prompt_learning and kind_of(base.config) == "encoder"
    try:
        with without_prompt(model) if prompt else model.disable_adapter():
            yield
    finally:
        for parameter in frozen:  # PEFT makes parameters trainable when it switches an adapter on
            parameter.requires_grad_(False)
