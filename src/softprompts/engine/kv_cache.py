"""Cache the keys and values of soft prompts at every layer for as long as they are valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from softprompts.engine.attention import LayoutError
from softprompts.models.peft_compat import changes_of

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import Cache, DynamicCache

# The keys and the values of each layer, (1, G, P, D) each: G groups of heads, P positions.
States = list[tuple[torch.Tensor, torch.Tensor]]
# The number of a soft prompt, and the common first tokens of its texts.
Key = tuple[int, tuple[int, ...]]


class PromptCache:
    """Keys and values of the soft prompts of a bank, computed at their first use and again when stale.

    They are stale if they were computed with other parameters, another active adapter, an adapter that has since been
    switched off, or another precision. They have no gradient.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._models = models
        self._parameters = [list(model.parameters()) for model in models]
        self._layers = [[m for m in model.modules() if isinstance(m, BaseTunerLayer)] for model in models]
        self._kept: dict[Key, tuple[Any, States | None]] = {}

    @contextmanager
    def emptied_by_optimizers(self) -> Iterator[None]:
        """Within this context, every optimizer step empties the cache, because fused optimizers leave no trace."""
        handle = register_optimizer_step_post_hook(lambda *_: self._kept.clear())
        try:
            yield
        finally:
            handle.remove()

    def get(self, number: int, key: Key, compute: Callable[[], States | None]) -> States | None:
        """Return the cached states of model `number` under a key; compute them if they are missing or stale."""
        state = self._state(number)
        found = self._kept.get(key)
        if found is not None and found[0] == state:
            return found[1]
        states = compute()
        # Only one head is kept, because heads of other batches would fill the memory.
        for other in [other for other in self._kept if other[0] == key[0] and other[1]]:
            del self._kept[other]
        self._kept[key] = state, states
        return states

    def _state(self, number: int) -> Any:
        """Return everything that keys and values depend on. This is cheap, because each batch needs it."""
        model = self._models[number]
        active = (model.active_adapters, model.has_active_enabled_adapter) if isinstance(model, PeftModel) else None
        layers = [(layer.disable_adapters, list(layer.active_adapters), layer.merged) for layer in self._layers[number]]
        device = self._parameters[number][0].device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return changes_of(self._parameters[number]), active, layers, precision


def states_in(cache: Cache, positions: int) -> States:
    """Return the states in a cache with this number of positions.

    A layer with a shorter window keeps only the last ones; the others, which no text attends to, become zeros.

    Raises:
        LayoutError: a layer has no keys and values of its own, as the upper ones of Gemma 3n.
    """
    layers: list[Any] = cache.layers
    if any(getattr(layer, "keys", None) is None for layer in layers):
        raise LayoutError("some layers keep no keys and values of their own")
    return [(_filled(layer.keys, positions), _filled(layer.values, positions)) for layer in layers]


def positions_of(prompt: torch.Tensor | States | None) -> int:
    """Return the number of positions P of embeddings (P, H) or of keys and values; 0 for None."""
    if prompt is None:
        return 0
    return len(prompt) if isinstance(prompt, torch.Tensor) else prompt[0][0].shape[2]


def one_behind_the_other(prompts: Sequence[States]) -> DynamicCache:
    """Return a cache of one row with all soft prompts in sequence."""
    layers = zip(*prompts, strict=True)
    return DynamicCache([tuple(torch.cat(tensors, dim=2) for tensors in zip(*layer, strict=True)) for layer in layers])


def side_by_side(rows: Sequence[States | None], positions: int) -> DynamicCache:
    """Return a cache of one row for each of `rows`, padded on the left to `positions`; None means no positions."""
    some = next(row for row in rows if row)
    layers: list[tuple[torch.Tensor, ...]] = []
    for number, layer in enumerate(some):
        both = []
        for which, like in enumerate(layer):
            tensors = [row[number][which] if row else like[:, :, :0] for row in rows]
            both.append(torch.cat([_filled(tensor, positions) for tensor in tensors]))
        layers.append(tuple(both))
    return DynamicCache(layers)


def _filled(tensor: torch.Tensor, positions: int) -> torch.Tensor:
    return functional.pad(tensor, (0, 0, positions - tensor.shape[2], 0))
