"""How far the layers of a base model look back, as its config says it."""

from __future__ import annotations

import math
import re
from typing import Any

# Keys of configs that bound the positions that a layer sees: sliding_window, attention_chunk_size (Llama 4),
# window_size (GPT-Neo), local_attention, keep_window_size (Doge), index_topk (DeepSeek 3.2), block_size (BigBird).
BOUND = re.compile(r"window|chunk|local_att|index_topk|block_size")
# Named alike, but numbers of layers, or blocks that an implementation computes in.
NO_BOUND = re.compile(r"layers$|pattern$|^chunk_size$|^mamba_chunk_size$|feed_forward|prob")
# What the packed attention understands: it is told the sliding window of each layer that has one.
KNOWN_BOUNDS = {"sliding_window", "window_size", "attention_window_size", "local_attention"}
KNOWN_LAYERS = {"full_attention", "sliding_attention", "attention"}


def bounds_of(base: Any) -> dict[str, int]:
    """Return the keys of a model's config that bound how far its layers look back, with their positions."""
    config = base.config.get_text_config().to_dict()
    named = {key: value for key, value in config.items() if BOUND.search(key) and not NO_BOUND.search(key)}
    return {key: value for key, value in named.items() if type(value) is int and value > 0}


def window_of(base: Any) -> float:
    """Return how far the layers that look back least look back, in positions; infinity where all see everything."""
    return min(bounds_of(base).values(), default=math.inf)


def unknown_layers(base: Any) -> str | None:
    """Name what the packed attention does not know about a model's layers; None where it knows all.

    Such layers may see everything in short texts, so that comparing losses there proves nothing about longer ones.
    """
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ())
    names = [f"layers of {kind}" for kind in sorted(kinds - KNOWN_LAYERS)]
    names += [f"{key} {value}" for key, value in bounds_of(base).items() if key not in KNOWN_BOUNDS]
    return f"it does not know {', '.join(names)}" if names else None
