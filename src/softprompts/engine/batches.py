"""Make batches of documents of token ids: padded, or packed into one row.

Index tensors are built on the host with numpy, and copied to the device once per batch. Letters in shapes: B documents,
S tokens of the longest document, N tokens of a packed row, T target tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from softprompts.encoding.documents import Document

import numpy
import torch

Array = numpy.ndarray  # of int64, on the host


@dataclass(frozen=True)
class PaddedBatch:
    """A batch of documents, padded on the right.

    input_ids (B, S), attention_mask (B, S); `predictors` (T,) are places in the flattened (B * S) hidden states
    whose logits predict `targets` (T,); `document` (T,) is the number of each target's document.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    predictors: torch.Tensor
    targets: torch.Tensor
    document: torch.Tensor


def pad(documents: Sequence[Document], device: torch.device) -> PaddedBatch:
    """Make a batch of documents, padded on the right.

    Right padding keeps every token's position after the prompt, with any `padding_side` of the tokenizer. PEFT ignores
    `position_ids`, so left padding would move the text away from the soft prompt.

    Raises:
        ValueError: no documents.
    """
    if not documents:
        raise ValueError("empty batch")
    prompts, counts = _lengths(d.prompt_ids for d in documents), _lengths(d.target_ids for d in documents)
    lengths = prompts + counts - 1  # (B,): the last target token is not read
    width = int(lengths.max())
    attention_mask = (numpy.arange(width) < lengths[:, None]).astype(numpy.int64)
    input_ids = numpy.zeros((len(documents), width), dtype=numpy.int64)
    input_ids[attention_mask > 0] = _flat([d.input_ids for d in documents])
    first = numpy.arange(len(documents)) * width + prompts - 1
    return PaddedBatch(
        *to_device(
            [
                input_ids,
                attention_mask,
                numpy.repeat(first, counts) + _within(counts),
                _flat([d.target_ids for d in documents]),
                numpy.repeat(numpy.arange(len(documents)), counts),
            ],
            device,
        )
    )


@dataclass(frozen=True)
class Text:
    """A part of a packed row: `length` tokens after the soft prompt with that number.

    A `head` is the common beginning of all texts of its soft prompt, for example an instruction. The texts follow it
    and attend to it. `view` is the row of the batch's `seen` that holds the visible positions of the soft prompt.
    """

    soft_prompt: int
    length: int
    head: bool = False
    view: int = 0


@dataclass(frozen=True)
class PackedBatch:
    """Texts concatenated in one row of N tokens, on the host, without padding or repetition.

    The common beginning of all texts of a soft prompt appears once, as their head. Documents with the same prompt are
    one text whose targets branch off, so two choices cost little more than one.

    input_ids (N,); `position` (N,) counts from 0 in each document; `branch` (N,) is 0 in a prompt and numbers the
    targets of a text from 1. `texts` are in the order of the row: the texts of one soft prompt are adjacent, first the
    head, then from the longest to the shortest. `predictors` (T,) are places in the row, `targets` and `document` (T,)
    as in `PaddedBatch`. `seen` (views, P) is 1 for positions of the soft prompt that a text attends to; None if each
    text attends to all.
    """

    input_ids: Array
    position: Array
    branch: Array
    texts: tuple[Text, ...]
    predictors: Array
    targets: Array
    document: Array
    seen: Array | None = None


class _Row:
    """A packed row while it is built: pieces of token ids, each at consecutive positions of one branch."""

    def __init__(self) -> None:
        self.ids: list[tuple[int, ...]] = []
        self.first: list[int] = []  # position of a piece's first token
        self.branch: list[int] = []
        self.length = 0

    def add(self, ids: tuple[int, ...], first: int, branch: int) -> int:
        """Append a piece, and return its place."""
        self.ids.append(ids)
        self.first.append(first)
        self.branch.append(branch)
        self.length += len(ids)
        return self.length - len(ids)

    def arrays(self) -> tuple[Array, Array, Array]:
        """Return input_ids, position and branch, (N,) each."""
        lengths = _lengths(self.ids)
        return _flat(self.ids), numpy.repeat(self.first, lengths) + _within(lengths), numpy.repeat(self.branch, lengths)


def pack(documents: Sequence[Document], seen: Array | None = None) -> PackedBatch:
    """Concatenate documents into one row.

    Args:
        documents: B of them.
        seen: (B, P), 1 for positions of the soft prompt that a document attends to. Documents that attend to different
            positions share no common beginning, because it depends on these positions.

    Raises:
        ValueError: no documents.
    """
    if not documents:
        raise ValueError("empty batch")
    views, view = (None, [0] * len(documents)) if seen is None else _views(seen)
    # For every text: the tokens that branch off its prompt, and the documents that end in them.
    found: dict[tuple[int, tuple[int, ...], int], dict[tuple[int, ...], list[int]]] = {}
    for index, d in enumerate(documents):
        text = d.soft_prompt, d.prompt_ids, view[index]
        found.setdefault(text, {}).setdefault(d.target_ids[:-1], []).append(index)
    ordered = sorted(found.items(), key=lambda text: (text[0][0], -len(text[0][1]) - sum(map(len, text[1]))))
    row, texts = _Row(), list[Text]()
    # For each document: the place of its prompt's last token, and of the first token that branches off.
    last, branched = (numpy.zeros(len(documents), dtype=numpy.int64) for _ in range(2))
    for soft_prompt, group in itertools.groupby(ordered, key=lambda text: text[0][0]):
        members = [(prompt_ids, number, branches) for (_, prompt_ids, number), branches in group]
        head = common_head([prompt_ids for prompt_ids, *_ in members]) if seen is None else 0
        if head:
            texts.append(Text(soft_prompt, head, head=True))
            row.add(members[0][0][:head], first=0, branch=0)
        for prompt_ids, its_view, branches in members:
            start = row.add(prompt_ids[head:], first=head, branch=0)
            end = row.length - 1
            for number, (ids, ending) in enumerate(branches.items(), 1):
                last[ending], branched[ending] = end, row.add(ids, first=len(prompt_ids), branch=number)
            texts.append(Text(soft_prompt, row.length - start, view=its_view))
    counts = _lengths(d.target_ids for d in documents)
    within = _within(counts)  # (T,)
    return PackedBatch(
        *row.arrays(),
        tuple(texts),
        numpy.where(within == 0, numpy.repeat(last, counts), numpy.repeat(branched, counts) + within - 1),
        _flat([d.target_ids for d in documents]),
        numpy.repeat(numpy.arange(len(documents)), counts),
        views,
    )


def _views(seen: Array) -> tuple[Array, list[int]]:
    """Return the distinct rows of `seen` (views, P), and the number of each document's row."""
    views, view = numpy.unique(seen, axis=0, return_inverse=True)
    return views, view.ravel().tolist()


def common_head(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return the length of the common beginning of all prompts, less than any prompt; 0 for a single prompt."""
    if len(prompts) == 1:
        return 0
    first, last = min(prompts), max(prompts)  # all prompts between these share their common beginning
    most = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


def to_device(arrays: Sequence[Array], device: torch.device) -> list[torch.Tensor]:
    """Copy integers to a device as tensors of the same shapes, all at once, from pinned memory to a GPU.

    The host does not wait for the copy.
    """
    flat = torch.from_numpy(numpy.concatenate([array.ravel() for array in arrays]))
    if device.type == "cuda":
        flat = flat.pin_memory()
    parts = flat.to(device, non_blocking=True).split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def _flat(pieces: Sequence[Sequence[int]]) -> Array:
    return numpy.fromiter(itertools.chain.from_iterable(pieces), numpy.int64, sum(map(len, pieces)))


def _lengths(pieces: Iterable[Sequence[int]]) -> Array:
    return numpy.array([len(piece) for piece in pieces])


def _within(lengths: Array) -> Array:
    """Return the place of each element in its own piece, for pieces of these lengths."""
    return numpy.arange(lengths.sum()) - numpy.repeat(lengths.cumsum() - lengths, lengths)
