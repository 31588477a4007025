"""Turn rows into token ids and documents into batches: a target is never truncated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from softprompts.errors import UserError
from softprompts.tasks import Row, Task

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Document:
    """Token ids that the model reads as one text: prompt, then target. Both are non-empty."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]

    @property
    def input_ids(self) -> tuple[int, ...]:
        """All tokens that go through the model: the last target token is predicted, never read."""
        return self.prompt_ids + self.target_ids[:-1]


@dataclass(frozen=True)
class Example:
    """A tokenized row. `choices` holds one document for each of `choice_texts`; both are empty for open tasks."""

    row: Row
    document: Document
    choices: tuple[Document, ...]
    choice_texts: tuple[str, ...]


@dataclass(frozen=True)
class EncodedTask:
    """A task and the tokenized rows of its splits, in the order of the task's rows."""

    task: Task
    train: list[Example]
    validation: list[Example]
    test: list[Example]


@dataclass(frozen=True)
class PaddedBatch:
    """Documents side by side, padded on the right. B documents, S tokens of the longest, T target tokens.

    input_ids (B, S), attention_mask (B, S); `predictors` (T,) are places in the flattened (B * S) hidden states
    whose logits predict `targets` (T,); `document` (T,) says which document a target belongs to.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    predictors: torch.Tensor
    targets: torch.Tensor
    document: torch.Tensor


def encode(task: Task, tokenizer: PreTrainedTokenizerBase, room: int | None) -> EncodedTask:
    """Tokenize a task.

    Args:
        task: where the rows come from; `task.config` says what becomes of long ones.
        tokenizer: the base model's. Open targets get its end-of-sequence token, so that generation learns to stop.
        room: tokens that the base model has left beside the virtual tokens; None where it has no limit.

    Raises:
        UserError: a target that tokenizes to nothing; a row longer than `task.max_length` or `room`.
    """
    return EncodedTask(task, **{name: _encode_rows(task, rows, tokenizer, room) for name, rows in task.splits.items()})


def _encode_rows(
    task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, room: int | None
) -> list[Example]:
    examples = []
    for row in rows:
        texts = task.choices or (row.target,)
        documents = [_document(row, text, tokenizer, task.choices is None) for text in texts]
        documents = _fit(documents, task, tokenizer, room, row)
        if task.choices is None:
            examples.append(Example(row, documents[0], (), ()))
        else:
            right = documents[task.choices.index(row.target)]
            examples.append(Example(row, right, tuple(documents), task.choices))
    return examples


def _document(row: Row, target: str, tokenizer: PreTrainedTokenizerBase, end: bool) -> Document:
    prompt_ids = _open_ids(row.prompt, tokenizer)
    if not prompt_ids:
        raise UserError(f"{row.place}: the prompt tokenizes to nothing")
    # The target as it continues this prompt: tokenizers of the SentencePiece kind put a space of their own in front
    # of a text that stands alone. Where the two fuse into other tokens, they are tokenized apart.
    whole = _open_ids(row.prompt + target, tokenizer)
    fused = whole[: len(prompt_ids)] != prompt_ids
    target_ids = tokenizer(target, add_special_tokens=False).input_ids if fused else whole[len(prompt_ids) :]
    if not target_ids:
        raise UserError(f"{row.place}: the target {target!r} tokenizes to nothing")
    if end:
        target_ids = [*target_ids, tokenizer.eos_token_id]
    return Document(tuple(prompt_ids), tuple(target_ids))


def _open_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenize a text that goes on: without the end-of-sequence token that some tokenizers add to every text."""
    ids: list[int] = tokenizer(text).input_ids
    if ids and ids[-1] == tokenizer.eos_token_id:
        own = tokenizer(text, add_special_tokens=False).input_ids
        return ids if own and own[-1] == tokenizer.eos_token_id else ids[:-1]
    return ids


def _fit(
    documents: Sequence[Document], task: Task, tokenizer: PreTrainedTokenizerBase, room: int | None, row: Row
) -> list[Document]:
    """Return the documents of one row, their common prompt cut alike where they are too long and may be cut."""
    limit = task.config.max_length if room is None else min(task.config.max_length, room)
    longest = max(documents, key=lambda d: len(d.prompt_ids) + len(d.target_ids))
    length, target = len(longest.prompt_ids) + len(longest.target_ids), len(longest.target_ids)
    if length <= limit:
        return list(documents)
    # The begin-of-sequence token, where there is one, stays in front: the model has never read a text without.
    kept = 1 if longest.prompt_ids[0] == tokenizer.bos_token_id else 0
    cut = length - limit
    possible = len(longest.prompt_ids) - kept - cut >= 1
    if not possible or task.config.long_rows != "cut_prompt":
        advice = "raise task.max_length" if limit == task.config.max_length else "the base model takes no more"
        raise UserError(
            f"{row.place}: {length} tokens ({target} of them target) do not fit into {limit}; "
            f"{advice}, shorten the row" + (", or set task.long_rows to cut_prompt" if possible else "")
        )
    return [Document(d.prompt_ids[:kept] + d.prompt_ids[kept + cut :], d.target_ids) for d in documents]


def pad(documents: Sequence[Document], device: torch.device) -> PaddedBatch:
    """Lay documents side by side, padded on the right.

    Right padding keeps every token's position behind the prompt what it is alone, whatever `padding_side` the
    tokenizer has: PEFT ignores `position_ids`, so left padding would move the text away from the soft prompt.
    """
    if not documents:
        raise ValueError("empty batch")
    width = max(len(d.input_ids) for d in documents)
    input_ids = torch.zeros(len(documents), width, dtype=torch.long)
    attention_mask = torch.zeros(len(documents), width, dtype=torch.long)
    predictors: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for index, document in enumerate(documents):
        ids = document.input_ids
        input_ids[index, : len(ids)] = torch.tensor(ids)
        attention_mask[index, : len(ids)] = 1
        first = index * width + len(document.prompt_ids) - 1
        predictors.extend(range(first, first + len(document.target_ids)))
        targets.extend(document.target_ids)
        owners.extend([index] * len(document.target_ids))
    return PaddedBatch(
        input_ids.to(device),
        attention_mask.to(device),
        torch.tensor(predictors, device=device),
        torch.tensor(targets, device=device),
        torch.tensor(owners, device=device),
    )


@dataclass(frozen=True)
class PackedBatch:
    """Documents end to end in R rows of S tokens, each row behind one soft prompt that is not part of it.

    input_ids (R, S); `segment` (R, S) numbers the documents of a row, -1 for padding; `position` (R, S) counts from 0
    in each document; `predictors`, `targets`, `document` (T,) as in `PaddedBatch`.
    """

    input_ids: torch.Tensor
    segment: torch.Tensor
    position: torch.Tensor
    predictors: torch.Tensor
    targets: torch.Tensor
    document: torch.Tensor


def pack(
    documents: Sequence[Document], virtual_tokens: int, token_cost: float, pair_cost: float, device: torch.device
) -> PackedBatch:
    """Lay documents end to end, in as many rows as are cheapest.

    A row of n positions, virtual tokens included, costs `n * token_cost + n * n * pair_cost`: few long rows repeat
    the soft prompt less often, many short ones compute less attention.
    """
    if not documents:
        raise ValueError("empty batch")
    lengths = [len(d.input_ids) for d in documents]

    def cost(rows: list[list[int]]) -> float:
        n = virtual_tokens + max(sum(lengths[i] for i in row) for row in rows)
        return len(rows) * (n * token_cost + n * n * pair_cost)

    rows = min((_level(lengths, count) for count in range(1, len(documents) + 1)), key=cost)
    width = max(sum(lengths[i] for i in row) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    segment = torch.full((len(rows), width), -1)
    position = torch.zeros(len(rows), width, dtype=torch.long)
    predictors: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for r, row in enumerate(rows):
        start = 0
        for index in row:
            document, end = documents[index], start + lengths[index]
            input_ids[r, start:end] = torch.tensor(document.input_ids)
            segment[r, start:end] = index
            position[r, start:end] = torch.arange(end - start)
            first = r * width + start + len(document.prompt_ids) - 1
            predictors.extend(range(first, first + len(document.target_ids)))
            targets.extend(document.target_ids)
            owners.extend([index] * len(document.target_ids))
            start = end
    order = torch.argsort(torch.tensor(owners), stable=True)  # back into the order of `documents`
    return PackedBatch(
        input_ids.to(device),
        segment.to(device),
        position.to(device),
        torch.tensor(predictors)[order].to(device),
        torch.tensor(targets)[order].to(device),
        torch.tensor(owners)[order].to(device),
    )


def _level(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Share documents out over `count` rows of like length: the longest first, each into the emptiest row."""
    rows: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        emptiest = filled.index(min(filled))
        rows[emptiest].append(index)
        filled[emptiest] += lengths[index]
    return rows


def batch_order(rows: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield the row indices of update 0, 1, 2, ... without end: a new permutation every epoch.

    A batch may straddle two epochs, so every batch is full. The order depends on nothing but the arguments: a
    resumed run skips to its step, and any number of processes agree on it without talking.
    """
    generator = torch.Generator().manual_seed(seed)
    pending: list[int] = []
    while True:
        while len(pending) < batch_size:
            pending.extend(torch.randperm(rows, generator=generator).tolist())
        yield pending[:batch_size]
        pending = pending[batch_size:]
