"""Attention over packed texts: each text attends to its soft prompt and to itself.

The linear layers of a decoder work token by token, so texts can be concatenated in one row without padding. Only
attention must separate them. It takes the texts out of the row, prepends the keys and values of their soft prompt,
attends, and puts the results back. A mask over the whole row would compute all pairs of tokens and discard most of
them.

The layout of the row is a keyword argument of the model's forward pass. Transformers passes it to the attention that
`follow_layouts` has set. Without a layout, that attention is the model's own.

Letters in shapes are those of `layout`, and H heads of queries, G groups of heads that share keys and values, D numbers
per head, K keys: of the whole row, or of a text with its soft prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from softprompts.engine.layout import Layout
from softprompts.errors import UserError
from softprompts.models.peft_compat import attention_name, eager_attention
from softprompts.models.reading import silent_transformers
from softprompts.models.sharding.layers import layers_of

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface

PREFIX = "softprompts_packed_"  # followed by the name of the model's own attention
OWN = ("sdpa", "eager")


class LayoutError(ValueError):
    """The attention of a base model does not follow the layout of a packed row."""


def follow_layouts(base: Any) -> None:
    """Make the attention layers of a base model follow the layout of a forward pass.

    Without a layout they attend as before, so PEFT's own forward pass, generation and other users of the model do not
    change. The setting is saved neither with the model nor with an adapter.

    Raises:
        LayoutError: the attention is not one of transformers' own or cannot be replaced; the model accepts no further
            arguments.
    """
    own = attention_name(base)
    if own.startswith(PREFIX):
        return
    if own not in OWN:
        raise LayoutError(f"the attention {own} is unknown")
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(base.forward).parameters.values()):
        raise LayoutError("the model's forward pass does not pass further arguments to its attention")
    with silent_transformers():  # it warns if the model has its own attention, and keeps that
        base.set_attn_implementation(PREFIX + own)
    if not attention_name(base).startswith(PREFIX):
        raise LayoutError("the model's attention cannot be replaced")


def unfollow_layouts(base: Any) -> None:
    """Restore the attention that a base model had before `follow_layouts`."""
    if attention_name(base).startswith(PREFIX):
        base.set_attn_implementation(attention_name(base).removeprefix(PREFIX))


def attend(
    own: str,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: Layout | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend by the layout, or by the attention `own` without one. Transformers calls this for every layer.

    query (1, H, Q, D), key and value (1, G, K, D) -> (1, Q, H, D); without a layout for any number of rows.
    """
    if layout is None:
        forward = eager_attention(module) if own == "eager" else AttentionInterface()[own]
        found: tuple[torch.Tensor, torch.Tensor | None] = forward(module, query, key, value, attention_mask, **settings)
        return found
    layout.reached = True
    return _by_layout(layout, query, key, value, **settings), None


for _own in OWN:
    AttentionInterface.register(PREFIX + _own, partial(attend, _own))
    AttentionMaskInterface.register(PREFIX + _own, AttentionMaskInterface()[_own])


def _by_layout(
    layout: Layout,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    compute = partial(_attention, scaling=scaling, dropout=dropout, softcap=softcap, sinks=s_aux)
    tokens = [group.tokens for group in layout.groups]
    front = layout.prompts if layout.prompt_queries else ()
    queries = query.split([*front, *tokens], dim=2)
    keys, values = (row.split([*layout.prompts, *tokens], dim=2) for row in (key, value))
    results = []
    for index in range(len(front)):
        sees = layout.prompt_mask(index, sliding_window, query.device)
        results.append(compute(queries[index], keys[index], values[index], sees).transpose(1, 2))
    for index, group in enumerate(layout.groups):
        part = len(layout.prompts) + index
        attended = compute(
            _take(queries[len(front) + index], group.places),
            _behind([keys[i] for i in group.front], _take(keys[part], group.places)),
            _behind([values[i] for i in group.front], _take(values[part], group.places)),
            layout.mask(index, sliding_window),
        )  # (b, H, L, D)
        flat = attended.transpose(1, 2).flatten(0, 1)  # (b * L, H, D)
        results.append(functional.embedding(group.back, flat.flatten(1)).view(1, -1, *flat.shape[1:]))
    return torch.cat(results, dim=1)


def takes_groups(device_type: str) -> bool:
    """Return whether PyTorch's attention with a mask should get fewer heads of keys than of queries.

    On a CPU it computes them group by group. On CUDA, `enable_gqa` together with a mask leaves only the math kernel,
    which stores the scores of all pairs, (b, H, L, K); with repeated keys and values, other kernels work.
    """
    return device_type == "cpu"


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sees: torch.Tensor,
    *,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attend: (b, H, L, D) queries, (b, G, K, D) keys -> (b, H, L, D). G groups of heads share keys and values.

    softcap: bound of the scores (Gemma 2); sinks (H,): score of a key without a value (GPT-OSS).
    """
    if softcap is None and sinks is None:
        dtype = query.dtype
        # On a CPU the gradient takes four times as long in 16 bits as in 32.
        if query.device.type == "cpu" and query.element_size() == 2:
            query, key, value = query.float(), key.float(), value.float()
        grouped = query.shape[1] != key.shape[1] and takes_groups(query.device.type)
        if not grouped:
            key, value = (_repeated(x, query.shape[1]) for x in (key, value))
        attended = functional.scaled_dot_product_attention(
            query, key, value, sees, dropout, scale=scaling, enable_gqa=grouped
        )
        return attended.to(dtype)
    key, value = (_repeated(x, query.shape[1]) for x in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~sees, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=3)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)[..., : key.shape[2]]
    return functional.dropout(weights, dropout) @ value


def _repeated(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat the heads of keys or values (b, G, K, D) for the queries that share them: (b, H, K, D)."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _take(row: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Split a part of the row (1, H, S, D) into texts by places (b, L) -> (b, H, L, D)."""
    heads, size = row.shape[1], row.shape[-1]
    table = row[0].transpose(0, 1).reshape(-1, heads * size)
    # A look-up of rows. As an embedding, its gradient costs a tenth of that of indexing on the CPU.
    return functional.embedding(places, table).view(*places.shape, heads, size).transpose(1, 2)


def _behind(front: Sequence[torch.Tensor], texts: torch.Tensor) -> torch.Tensor:
    """Prepend parts (1, G, P, D) to each text (b, G, L, D)."""
    return torch.cat([*(part.expand(len(texts), -1, -1, -1) for part in front), texts], dim=2)


def checkpoint_layers(base: nn.Module) -> None:
    """Keep only the inputs of decoder layers for the backward pass, which recomputes the rest.

    The inputs of a layer are its arguments, including the layout. Transformers' own switch works only in training mode,
    in which the base model's dropout would be active. A second call changes nothing: engines share a base model.

    Raises:
        UserError: the model does not mark its layers.
    """
    layers: list[Any] = layers_of(base)
    if not layers:
        raise UserError(
            f"model.gradient_checkpointing: a {type(base).__name__} does not mark its layers, so it would have no "
            "effect; set it to false, and training.micro_batch_tokens to save memory"
        )
    for layer in layers:
        if getattr(layer.forward, "func", None) is not _recomputed:
            layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
