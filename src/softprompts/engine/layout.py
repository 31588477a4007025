"""Compute the places of the texts in a packed row, and their attention masks, once per batch for all layers.

Letters in shapes: N tokens of the row, T target tokens; b texts of a group, L tokens of its longest text, P positions
before them; Q queries of the row: the N tokens and the positions of soft prompts that are queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from softprompts.engine.batches import Array, PackedBatch, Text, to_device

import numpy
import torch
from torch.nn import functional

# Attention pads texts to the longest of their group. It is the small part of the work, so a few groups are enough: a
# text joins a group whose longest text is at most twice as long.
SHORTEST_OF_GROUP = 0.5


@dataclass(frozen=True, eq=False)
class Group:
    """A part of the row: b texts of at most L tokens each, after the same P positions.

    front: the parts of the row of keys that hold these positions; tokens: number of tokens of this part; places (b, L):
    places of a text's tokens in this part, 0 for padding; back (tokens,): places of this part's tokens in the flattened
    (b * L); position (b, L): positions of the texts' tokens; sees (b, 1, L, P + L): the attention mask.
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

    prompts: positions of each soft prompt; prompt_queries: whether they are also queries (prompt tuning), or only keys
    and values (prefix tuning); masks: the masks for each part and sliding window, made at their first use and shared by
    all layers; reached: whether any layer has used the layout.
    """

    prompts: tuple[int, ...]
    prompt_queries: bool
    groups: tuple[Group, ...]
    masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict)
    reached: bool = False

    def mask(self, index: int, window: int | None) -> torch.Tensor:
        """Return the attention mask of a group, (b, 1, L, P + L), for a layer with this sliding window."""
        group = self.groups[index]
        length, keys = group.sees.shape[-2:]
        if window is None or window >= int(keys):
            return group.sees
        part = len(self.prompts) + index
        if (part, window) not in self.masks:
            front = torch.arange(keys - length, device=group.position.device).expand(len(group.position), -1)
            position = torch.cat([front, group.position], dim=1)  # (b, P + L)
            behind = group.position[:, None, :, None] - position[:, None, None, :]
            self.masks[part, window] = group.sees & (behind < window)
        return self.masks[part, window]

    def prompt_mask(self, index: int, window: int | None, device: torch.device) -> torch.Tensor:
        """Return the attention mask (P, P) of a soft prompt that is among the queries."""
        if (index, window) not in self.masks:
            position = torch.arange(self.prompts[index], device=device)
            behind = position[:, None] - position
            self.masks[index, window] = (behind >= 0) if window is None else (behind >= 0) & (behind < window)
        return self.masks[index, window]


class Inputs(NamedTuple):
    """The inputs of a packed forward pass in addition to the layout, on the device.

    input_ids (N,); position_ids (Q,), those of soft prompts among the queries first; predictors, targets, document
    (T,), as in `PackedBatch`.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predictors: torch.Tensor
    targets: torch.Tensor
    document: torch.Tensor


class _Stretch(NamedTuple):
    """A group before it is on the device: its start in the row, and the lengths and views of its texts, (b,)."""

    front: tuple[int, ...]
    before: int
    start: int
    lengths: Array
    views: list[int]


def lay_out(
    batch: PackedBatch, prompts: Mapping[int, int], *, prompt_queries: bool, device: torch.device
) -> tuple[Inputs, Layout]:
    """Lay out the texts of a batch after their soft prompts, and copy the result to the device.

    Args:
        batch: the packed row.
        prompts: positions of each soft prompt in the batch, in the order of its texts; 0 if there is none.
        prompt_queries: see `Layout`.
        device: the model's device.
    """
    lengths = [text.length for text in batch.texts]
    position = batch.position + numpy.repeat([prompts[text.soft_prompt] for text in batch.texts], lengths)  # (N,)
    queries = [numpy.arange(length) for length in prompts.values()] if prompt_queries else []
    stretches = list(_stretches(batch.texts, prompts))
    arrays = [
        batch.input_ids,
        numpy.concatenate([*queries, position]),
        batch.predictors,
        batch.targets,
        batch.document,
        *(array for stretch in stretches for array in _indices(stretch, position, batch)),
    ]
    tensors = iter(to_device(arrays, device))
    inputs = Inputs(*(next(tensors) for _ in Inputs._fields))
    each = 4 if batch.seen is None else 5
    groups = tuple(_group(stretch, *(next(tensors) for _ in range(each))) for stretch in stretches)
    return inputs, Layout(tuple(prompts.values()), prompt_queries, groups)


def _stretches(texts: Sequence[Text], prompts: Mapping[int, int]) -> Iterator[_Stretch]:
    """Divide the texts into groups of one soft prompt and similar lengths. A head is a group before the others."""
    part, start = len(prompts), 0  # in the row of keys, which begins with the soft prompts
    for index, (soft_prompt, members) in enumerate(groupby(texts, key=lambda text: text.soft_prompt)):
        front: tuple[int, ...] = (index,)
        before, rest = prompts[soft_prompt], list(members)
        while rest:
            longest = rest[0].length
            count = 1 if rest[0].head else sum(text.length >= SHORTEST_OF_GROUP * longest for text in rest)
            lengths = numpy.array([text.length for text in rest[:count]])
            yield _Stretch(front, before, start, lengths, [text.view for text in rest[:count]])
            if rest[0].head:
                front, before = (*front, part), before + longest
            part, start, rest = part + 1, start + int(lengths.sum()), rest[count:]


def _indices(stretch: _Stretch, position: Array, batch: PackedBatch) -> Iterator[Array]:
    """Yield places (b, L), back (tokens,), and position and branch of the tokens in these places, (b, L) each.

    If texts do not attend to all of their soft prompt, yield their visible positions (b, P) as well.
    """
    starts, offset = stretch.lengths.cumsum() - stretch.lengths, numpy.arange(stretch.lengths.max())
    inside = offset < stretch.lengths[:, None]
    places = numpy.where(inside, starts[:, None] + offset, 0)
    row = places + stretch.start
    # Padding is a separate branch, which no text attends to.
    yield from (places, inside.ravel().nonzero()[0], position[row], numpy.where(inside, batch.branch[row], -1))
    if batch.seen is not None:
        yield batch.seen[stretch.views]


def _group(
    stretch: _Stretch,
    places: torch.Tensor,
    back: torch.Tensor,
    position: torch.Tensor,
    branch: torch.Tensor,
    seen: torch.Tensor | None = None,
) -> Group:
    offset = torch.arange(places.shape[1], device=places.device)
    causal = offset[:, None] >= offset
    same = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    sees = functional.pad(causal & same, (stretch.before, 0), value=True)
    if seen is not None:
        sees[:, :, : stretch.before] &= seen[:, None] > 0
    return Group(
        front=stretch.front,
        tokens=len(back),
        places=places,
        back=back,
        position=position,
        sees=sees[:, None],
    )
