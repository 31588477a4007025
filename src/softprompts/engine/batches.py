"""Documents of token ids, and batches of them: padded, or packed into one row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from softprompts.tasks.documents import Document

import torch


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
        head = common_head([prompt_ids for prompt_ids, _ in members])
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


def common_head(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all prompts begin with, leaving each one of its own; 0 for a single one."""
    if len(prompts) == 1:
        return 0
    first, last = min(prompts), max(prompts)  # what these share, all share that lie between them
    most = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)
