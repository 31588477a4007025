"""An adapter switched off: the model answers as its base model does."""

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
    """Say whether a model answers as its base model does while its adapter is switched off."""
    return facts_of(model).kept


@contextmanager
def without_adapter(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Within this context a model that `has_base` answers as its base model does."""
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
        for parameter in frozen:  # PEFT lets what it switches on train
            parameter.requires_grad_(False)
