"""Attention over packed texts: each sees its soft prompt and itself, and little else is computed.

The linear layers of a decoder work token by token, so texts can lie end to end in one row without padding. Attention
alone needs to know where one ends: it takes the texts out of the row, puts the keys and values of their soft prompt in
front, attends, and puts the results back. A mask over the whole row would compute all pairs of tokens and throw most
of them away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

from softprompts.engine.batches import PackedBatch

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_layers import GradientCheckpointingLayer

NAME = "softprompts_packed"

# Texts are padded to the longest of their group inside attention. Attention is the small part of the work, so that a
# few groups are enough: a text joins a group whose longest is at most twice as long.
SHORTEST_OF_GROUP = 0.5


@dataclass(frozen=True, eq=False)
class Group:
    """A stretch of the row: b texts of at most L tokens each, behind the same P positions.

    front: the parts of the row of keys that make up these positions; tokens: length of the stretch; places (b, L):
    where in the stretch a text's tokens are, 0 for padding; back (tokens,): where in the flattened (b * L) a token of
    the stretch is; position (b, P + L): positions of the keys; sees (b, 1, L, P + L): who sees whom.
    """

    front: tuple[int, ...]
    tokens: int
    places: torch.Tensor
    back: torch.Tensor
    position: torch.Tensor
    sees: torch.Tensor


@dataclass(eq=False)
class Layout:
    """A row of keys in parts: `[soft prompt 1]..[soft prompt K][group 1]..[group G]`.

    prompts: positions of each soft prompt; prompt_queries: whether they are among the queries, too (prompt tuning), or
    come as keys and values only (prefix tuning); masks: what each group sees, by group and sliding window, filled in by
    `mask` so that the layers share them.
    """

    prompts: tuple[int, ...]
    prompt_queries: bool
    groups: tuple[Group, ...]
    masks: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def mask(self, index: int, window: int | None) -> torch.Tensor:
        """Return (b, 1, L, P + L): who sees whom in a group, where a layer looks back fewer than `window` positions."""
        group = self.groups[index]
        length, keys = group.sees.shape[-2:]
        if window is None or window >= int(keys):
            return group.sees
        if (index, window) not in self.masks:
            key, query = group.position[:, None, None, :], group.position[:, None, -length:, None]
            self.masks[index, window] = group.sees & (query - key < window)
        return self.masks[index, window]


def make_layout(batch: PackedBatch, prompts: dict[int, int], prompt_queries: bool) -> Layout:
    """Lay out the texts of a batch.

    Args:
        batch: the row.
        prompts: positions of each soft prompt that the batch uses, in the order of its texts; 0 where there is none.
        prompt_queries: see `Layout`.
    """
    order = {prompt: index for index, prompt in enumerate(prompts)}
    groups: list[Group] = []
    start = 0
    for soft_prompt, texts in groupby(batch.texts, key=lambda text: text.soft_prompt):
        front: tuple[int, ...] = (order[soft_prompt],)
        positions = prompts[soft_prompt]
        rest = list(texts)
        while rest:
            count = 1 if rest[0].head else sum(t.length >= SHORTEST_OF_GROUP * rest[0].length for t in rest)
            stretch = slice(start, start + sum(t.length for t in rest[:count]))
            lengths = [t.length for t in rest[:count]]
            first = prompts[soft_prompt]
            groups.append(_group(front, positions, first, lengths, batch.position[stretch], batch.branch[stretch]))
            if rest[0].head:
                front, positions = (*front, len(prompts) + len(groups) - 1), positions + rest[0].length
            start, rest = stretch.stop, rest[count:]
    return Layout(tuple(prompts.values()), prompt_queries, tuple(groups))


def _group(
    front: tuple[int, ...],
    positions: int,
    first: int,
    lengths: list[int],
    position: torch.Tensor,
    branch: torch.Tensor,
) -> Group:
    """Lay out texts of these lengths behind `positions`; their own count on from `first`."""
    device = position.device
    sizes = torch.tensor(lengths, device=device)
    offset = torch.arange(lengths[0], device=device)
    inside = offset < sizes[:, None]
    places = torch.where(inside, (sizes.cumsum(0) - sizes)[:, None] + offset, 0)
    branches = branch[places]
    causal = offset[:, None] >= offset
    same = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    # Padding, which is thrown away, sees the first token: a row of the softmax that sees nothing would be NaN.
    sees = (causal & same & inside[:, None, :]) | (offset == 0)
    before = torch.arange(positions, device=device).expand(len(lengths), -1)
    return Group(
        front=front,
        tokens=sum(lengths),
        places=places,
        back=inside.flatten().nonzero()[:, 0],
        position=torch.cat([before, position[places] + first], dim=1),
        sees=functional.pad(sees, (positions, 0), value=True)[:, None],
    )


_layout: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def packed(base: nn.Module, layout: Layout) -> Iterator[None]:
    """Within this context the attention layers of `base` follow `layout`."""
    with_config: list[Any] = [m for m in base.modules() if hasattr(m, "config")]
    configs = {id(m.config): m.config for m in with_config}.values()
    before = [config._attn_implementation for config in configs]
    token = _layout.set(layout)
    for config in configs:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation
        _layout.reset(token)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend by the layout, called by transformers: query (1, H, Q, D), key and value (1, G, K, D) -> (1, Q, H, D)."""
    layout = _layout.get()
    assert layout is not None, "attend() outside of packed()"
    compute = partial(_attention, scaling=scaling, dropout=dropout, softcap=softcap, sinks=s_aux)
    tokens = [group.tokens for group in layout.groups]
    front = layout.prompts if layout.prompt_queries else ()
    queries = query.split([*front, *tokens], dim=2)
    keys, values = (row.split([*layout.prompts, *tokens], dim=2) for row in (key, value))
    results = []
    for index, virtual in enumerate(front):
        position = torch.arange(virtual, device=query.device)
        behind = position[:, None] - position
        sees = (behind >= 0) if sliding_window is None else (behind >= 0) & (behind < sliding_window)
        results.append(compute(queries[index], keys[index], values[index], sees).transpose(1, 2))
    for index, group in enumerate(layout.groups):
        mine = len(layout.prompts) + index
        attended = compute(
            _take(queries[len(front) + index], group.places),
            _behind([keys[part] for part in group.front], _take(keys[mine], group.places)),
            _behind([values[part] for part in group.front], _take(values[mine], group.places)),
            layout.mask(index, sliding_window),
        )
        flat = attended.transpose(1, 2).flatten(0, 1)
        results.append(functional.embedding(group.back, flat.flatten(1)).view(1, -1, *flat.shape[1:]))
    return torch.cat(results, dim=1), None


AttentionInterface.register(NAME, attend)


def takes_groups(device_type: str) -> bool:
    """Say whether PyTorch's attention with a mask should get fewer heads of keys than of queries, on such a device.

    On a CPU it computes them group by group. On CUDA `enable_gqa` together with a mask leaves the math kernel only,
    which holds the scores of all pairs, (b, H, L, K); with keys and values repeated, other kernels take them.
    """
    return device_type == "cpu"


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sees: torch.Tensor,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """(b, H, L, D) queries against (b, G, K, D) keys -> (b, H, L, D); G groups of heads share keys and values.

    softcap: bound of the scores (Gemma 2); sinks (H,): score of a key without a value (GPT-OSS).
    """
    if softcap is None and sinks is None:
        dtype = query.dtype
        # On a CPU the gradient takes four times as long in 16 bits as in 32.
        if query.device.type == "cpu" and query.element_size() == 2:
            query, key, value = query.float(), key.float(), value.float()
        grouped = query.shape[1] != key.shape[1] and takes_groups(query.device.type)
        if not grouped:
            key, value = (repeat_kv(x, query.shape[1] // x.shape[1]) for x in (key, value))
        attended = functional.scaled_dot_product_attention(
            query, key, value, sees, dropout, scale=scaling, enable_gqa=grouped
        )
        return attended.to(dtype)
    key, value = (repeat_kv(x, query.shape[1] // x.shape[1]) for x in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~sees, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=3)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)[..., : key.shape[2]]
    return functional.dropout(weights, dropout) @ value


def _take(row: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Take a stretch (1, H, S, D) apart by places (b, L) -> (b, H, L, D)."""
    heads, size = row.shape[1], row.shape[-1]
    table = row[0].transpose(0, 1).reshape(-1, heads * size)
    # A look-up of rows: as an embedding its gradient costs a tenth of what that of indexing costs on the CPU.
    return functional.embedding(places, table).view(*places.shape, heads, size).transpose(1, 2)


def _behind(front: Sequence[torch.Tensor], texts: torch.Tensor) -> torch.Tensor:
    """Put parts (1, G, P, D) in front of each text (b, G, L, D)."""
    return torch.cat([*(part.expand(len(texts), -1, -1, -1) for part in front), texts], dim=2)


def checkpoint_layers(base: nn.Module) -> None:
    """Keep only the inputs of decoder layers for the backward pass, which computes the rest again.

    Not transformers' own switch: that one works in training mode only, where the base's dropout would be active.
    """

    def again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        layout = _layout.get()
        return nullcontext(), nullcontext() if layout is None else packed(base, layout)

    def recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, context_fn=again, **kwargs)

    for layer in base.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = partial(recomputed, layer.forward)
