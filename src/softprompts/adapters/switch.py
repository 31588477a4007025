"""An adapter switched off: the model answers as its base model does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from softprompts.models.loading import kind_of

from peft import PeftModel
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel


def has_base(model: PreTrainedModel | PeftModel) -> bool:
    """Say whether a model answers as its base model does while its adapter is switched off."""
    return bool(getattr(model, "keeps_base", True))


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
        with _without_prompt(model) if prompt else model.disable_adapter():
            yield
    finally:
        for parameter in frozen:  # PEFT lets what it switches on train
            parameter.requires_grad_(False)


@contextmanager
def _without_prompt(model: Any) -> Iterator[None]:
    """Switch an encoder's soft prompt off: PEFT's own asks for methods of generation, and leaves the classifier."""
    wrappers = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    model.forward, model._adapters_disabled = model.base_model.forward, True
    try:
        for wrapper in wrappers:
            wrapper.enable_adapters(False)
        yield
    finally:
        for wrapper in wrappers:
            wrapper.enable_adapters(True)
        del model.forward
        model._adapters_disabled = False
