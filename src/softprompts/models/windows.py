"""Find the attention windows of a base model's layers in its config."""

from __future__ import annotations

import math
import re
from typing import Any

# Keys of configs that limit the positions that a layer attends to: sliding_window, attention_chunk_size (Llama 4),
# window_size (GPT-Neo), local_attention, keep_window_size (Doge), index_topk (DeepSeek 3.2), block_size (BigBird).
BOUND = re.compile(r"window|chunk|local_att|index_topk|block_size")
# Similar names for other things: numbers of layers, or block sizes of an implementation.
NO_BOUND = re.compile(r"layers$|pattern$|^chunk_size$|^mamba_chunk_size$|feed_forward|prob")
# Keys that the packed attention supports: it gets the sliding window of each layer that has one.
KNOWN_BOUNDS = {"sliding_window", "window_size", "attention_window_size", "local_attention"}
KNOWN_LAYERS = {"full_attention", "sliding_attention", "attention"}


def bounds_of(base: Any) -> dict[str, int]:
    """Return the keys of a model's config that limit the window of its layers, with their positions."""
    config = base.config.get_text_config().to_dict()
    named = {key: value for key, value in config.items() if BOUND.search(key) and not NO_BOUND.search(key)}
    return {key: value for key, value in named.items() if type(value) is int and value > 0}


def window_of(base: Any) -> float:
    """Return the shortest window of a model's layers, in positions; infinity if all layers have none."""
    return min(bounds_of(base).values(), default=math.inf)


def unknown_layers(base: Any) -> str | None:
    """Name the layers that the packed attention does not support; None if it supports all.

    In short texts such layers may attend to everything, so equal losses there prove nothing about longer texts.
    """
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ())
    names = [f"layers of {kind}" for kind in sorted(kinds - KNOWN_LAYERS)]
    names += [f"{key} {value}" for key, value in bounds_of(base).items() if key not in KNOWN_BOUNDS]
    return f"it does not support {', '.join(names)}" if names else None
