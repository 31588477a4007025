"""Soft prompts as the attention layers see them: keys and values at every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import Cache, DynamicCache

# Of each layer the keys and the values, (1, G, P, D) both: G groups of heads, P positions.
States = list[tuple[torch.Tensor, torch.Tensor]]


def states_in(cache: Cache, positions: int) -> States:
    """Return what a cache of so many positions holds.

    A layer that looks back less keeps the last of them only; the others, which nothing behind sees, become zeros.
    """
    layers: list[Any] = cache.layers
    return [(_filled(layer.keys, positions), _filled(layer.values, positions)) for layer in layers]


def positions_of(prompt: torch.Tensor | States | None) -> int:
    """Return the number of positions P of embeddings (P, H) or of keys and values; 0 for None."""
    if prompt is None:
        return 0
    return len(prompt) if isinstance(prompt, torch.Tensor) else prompt[0][0].shape[2]


def one_behind_the_other(prompts: Sequence[States]) -> DynamicCache:
    """Return a cache of one row that holds all soft prompts, one behind the other."""
    layers = zip(*prompts, strict=True)
    return DynamicCache([tuple(torch.cat(tensors, dim=2) for tensors in zip(*layer, strict=True)) for layer in layers])


def side_by_side(rows: Sequence[States | None], positions: int) -> DynamicCache:
    """Return a cache of one row for each of `rows`, padded on the left to `positions`; None has no position."""
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
