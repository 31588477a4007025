"""Turn rows into token ids and documents into batches: a target is never truncated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from softprompts.errors import UserError
from softprompts.tasks import Row, Task

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Document:
    """Token ids that the model reads as one text: prompt, then target. Both are non-empty.

    `soft_prompt` says behind which soft prompt of the engine's bank it stands.
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    soft_prompt: int = 0

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
    return [replace(d, prompt_ids=d.prompt_ids[:kept] + d.prompt_ids[kept + cut :]) for d in documents]


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
class Text:
    """A stretch of a packed row: `length` tokens behind the soft prompt of that number.

    A `head` is what all texts of its soft prompt begin with, their instruction say; they follow it, and see it.
    """

    soft_prompt: int
    length: int
    head: bool = False


@dataclass(frozen=True)
class PackedBatch:
    """Texts end to end in one row of N tokens: nothing is padded, and nothing is read twice.

    What all texts of a soft prompt begin with stands in front of them once, as their head. Documents with the same
    prompt are one text: their targets branch off it, so that two choices cost little more than one.

    input_ids (N,); `position` (N,) counts from 0 in each document; `branch` (N,) is 0 in a prompt and numbers the
    targets of a text from 1; `texts` in the order of the row: those of a soft prompt side by side, its head first, then
    the longest first. `predictors`, `targets`, `document` (T,) as in `PaddedBatch`.
    """

    input_ids: torch.Tensor
    position: torch.Tensor
    branch: torch.Tensor
    texts: tuple[Text, ...]
    predictors: torch.Tensor
    targets: torch.Tensor
    document: torch.Tensor


def pack(documents: Sequence[Document], device: torch.device) -> PackedBatch:
    """Lay documents end to end."""
    if not documents:
        raise ValueError("empty batch")
    # For every text: which tokens branch off its prompt, and the documents that end in them.
    found: dict[tuple[int, tuple[int, ...]], dict[tuple[int, ...], list[int]]] = {}
    for index, d in enumerate(documents):
        found.setdefault((d.soft_prompt, d.prompt_ids), {}).setdefault(d.target_ids[:-1], []).append(index)
    ordered = sorted(found.items(), key=lambda text: (text[0][0], -len(text[0][1]) - sum(map(len, text[1]))))
    input_ids: list[int] = []
    position: list[int] = []
    branch: list[int] = []
    texts: list[Text] = []
    predictors: list[list[int]] = [[] for _ in documents]

    def add(ids: Sequence[int], first: int, number: int) -> None:
        input_ids.extend(ids)
        position.extend(range(first, first + len(ids)))
        branch.extend([number] * len(ids))

    for soft_prompt, group in itertools.groupby(ordered, key=lambda text: text[0][0]):
        members = [(prompt_ids, branches) for (_, prompt_ids), branches in group]
        head = _common([prompt_ids for prompt_ids, _ in members])
        if head:
            texts.append(Text(soft_prompt, head, head=True))
            add(members[0][0][:head], 0, 0)
        for prompt_ids, branches in members:
            start = len(input_ids)
            add(prompt_ids[head:], head, 0)
            last = len(input_ids) - 1
            for number, (ids, owners) in enumerate(branches.items(), 1):
                for index in owners:
                    predictors[index] = [last, *range(len(input_ids), len(input_ids) + len(ids))]
                add(ids, len(prompt_ids), number)
            texts.append(Text(soft_prompt, len(input_ids) - start))
    return PackedBatch(
        torch.tensor(input_ids, device=device),
        torch.tensor(position, device=device),
        torch.tensor(branch, device=device),
        tuple(texts),
        torch.tensor([place for places in predictors for place in places], device=device),
        torch.tensor([target for d in documents for target in d.target_ids], device=device),
        torch.tensor([i for i, d in enumerate(documents) for _ in d.target_ids], device=device),
    )


def _common(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all prompts begin with, leaving each one of its own; 0 for a single one."""
    if len(prompts) == 1:
        return 0
    first, last = min(prompts), max(prompts)  # what these share, all share that lie between them
    most = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


def share_out(documents: Sequence[Document], parts: int) -> list[list[Document]]:
    """Part documents into `parts` lists of about as many tokens each, their order kept within a list.

    The longest goes first, each to the list with the fewest tokens so far: at most 4/3 of the best (Graham 1969).
    """
    shares: list[list[int]] = [[] for _ in range(parts)]
    tokens = [0] * parts
    for index in sorted(range(len(documents)), key=lambda i: -len(documents[i].input_ids)):
        emptiest = tokens.index(min(tokens))
        shares[emptiest].append(index)
        tokens[emptiest] += len(documents[index].input_ids)
    return [[documents[i] for i in sorted(share)] for share in shares]


def behind(data: EncodedTask, soft_prompt: int) -> EncodedTask:
    """Return the task with its documents behind another soft prompt of the bank."""

    def moved(examples: Sequence[Example]) -> list[Example]:
        return [
            replace(
                e,
                document=replace(e.document, soft_prompt=soft_prompt),
                choices=tuple(replace(d, soft_prompt=soft_prompt) for d in e.choices),
            )
            for e in examples
        ]

    return EncodedTask(data.task, moved(data.train), moved(data.validation), moved(data.test))


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
