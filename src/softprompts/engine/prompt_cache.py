"""Keys and values of soft prompts, kept for a while, as long as nothing that they come from changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from softprompts.engine.kv_cache import States
from softprompts.models.peft_compat import changes_of

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

# A soft prompt by its number, and the tokens that all texts behind it begin with.
Key = tuple[int, tuple[int, ...]]


class PromptCache:
    """What each soft prompt of a bank gives at every layer: computed when first needed, and again when it is stale.

    Stale is what was computed with other parameters, another active adapter, an adapter that was on and is off, or in
    another precision. It has no gradient.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._models = models
        self._parameters = [list(model.parameters()) for model in models]
        self._layers = [[m for m in model.modules() if isinstance(m, BaseTunerLayer)] for model in models]
        self._kept: dict[Key, tuple[Any, States | None]] = {}

    @contextmanager
    def emptied_by_optimizers(self) -> Iterator[None]:
        """Within this context every step of an optimizer empties the cache: fused ones leave no trace in a tensor."""
        handle = register_optimizer_step_post_hook(lambda *_: self._kept.clear())
        try:
            yield
        finally:
            handle.remove()

    def get(self, number: int, key: Key, compute: Callable[[], States | None]) -> States | None:
        """Return what is kept under a key, of model `number`; computed anew where it is missing or stale."""
        state = self._state(number)
        found = self._kept.get(key)
        if found is not None and found[0] == state:
            return found[1]
        states = compute()
        # One head at a time: those of other batches would fill the memory.
        for other in [other for other in self._kept if other[0] == key[0] and other[1]]:
            del self._kept[other]
        self._kept[key] = state, states
        return states

    def _state(self, number: int) -> Any:
        """Return what has to be the same for keys and values to be the same; cheap, since each batch asks for it."""
        model = self._models[number]
        active = (model.active_adapters, model.has_active_enabled_adapter) if isinstance(model, PeftModel) else None
        layers = [(layer.disable_adapters, list(layer.active_adapters), layer.merged) for layer in self._layers[number]]
        device = self._parameters[number][0].device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return changes_of(self._parameters[number]), active, layers, precision
