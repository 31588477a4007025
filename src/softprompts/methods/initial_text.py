"""Texts that soft prompts start from: an instruction, what a task's answers are made of, solved rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from softprompts.errors import UserError, notice
from softprompts.tasks.rows import Text
from softprompts.tasks.task import Task, in_words, outputs_in_words

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

CANDIDATES = 1000  # most rows that demonstrations are chosen from
SEPARATOR = "\n\n"  # ends a demonstration, as it ends the solved examples of hard prompts by default


def initial_text(
    source: str,
    task: Task | None,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    *,
    first: str | None = None,
    section: str,
) -> str:
    """Return the text that `init_from` asks for.

    Args:
        source: instruction, outputs or demonstrations.
        task: what the soft prompt is for: without one there is nothing to take.
        tokenizer: of the base model.
        count: number of virtual tokens, which decides how many demonstrations there are.
        first: a text that goes first.
        section: of the settings, for messages.

    Raises:
        UserError: no task; outputs of a task without choices and schema; no row of train that fits.
    """
    key = f"{section}.init_from: {source}"
    task = _given(task, key)
    if source == "demonstrations":
        start = f"{first}{SEPARATOR}" if first else ""
        rows = demonstrations(task, tokenizer, count - _length(tokenizer, start), section)
        text = start + "".join(map(_written, rows))
        notice(f"{key}: {len(rows)} rows of train, {_length(tokenizer, text)} of {count} virtual tokens")
        return text
    found = in_words(task) if source == "instruction" else outputs_in_words(task)
    if found is None:
        raise UserError(f"{key} needs task.choices or task.schema; take demonstrations, or set init_from to null")
    text = f"{first} {found}" if first else found
    length = _length(tokenizer, text)
    if length > count:
        notice(f"{key}: a text of {length} tokens, of which {section}.num_virtual_tokens leaves the first {count}")
    return text


def demonstrations(task: Task, tokenizer: PreTrainedTokenizerBase, room: int, section: str) -> list[Text]:
    """Choose rows of train for their coverage: each next one adds most to what those before it cover.

    Choices are to be covered, or the tokens of written targets. Once nothing is left to cover, it all begins again, so
    that choices come in turn. Levy et al. (2023), "Diverse Demonstrations Improve In-context Compositional
    Generalization", choose by parts of the output likewise. Rows that add as much come in an order that PyTorch's
    generator decides.

    Args:
        task: whose train split is chosen from, at most `CANDIDATES` drawn rows of it.
        tokenizer: of the base model.
        room: tokens that the rows and the separators that end them may have together.
        section: of the settings, for messages.

    Returns:
        As many rows as fit.

    Raises:
        UserError: none fits.
    """
    rows = _drawn(task)
    lengths = [len(ids) for ids in _ids(tokenizer, list(map(_written, rows)))]
    targets = [row.target for row in rows]
    parts: list[Collection[object]] = [{t} for t in targets] if task.choices else [*map(set, _ids(tokenizer, targets))]
    chosen: list[int] = []
    covered: set[object] = set()
    left = list(range(len(rows)))
    while left := [n for n in left if lengths[n] <= room and n not in chosen]:
        if all(covered.issuperset(parts[n]) for n in left):
            covered = set()
        best = max(left, key=lambda n: len(set(parts[n]) - covered))
        chosen.append(best)
        covered.update(parts[best])
        room -= lengths[best]
    if not chosen:
        raise UserError(
            f"{section}.init_from: demonstrations: no row of train fits into the {max(room, 0)} virtual tokens left: "
            f"the shortest has {min(lengths)}; set {section}.num_virtual_tokens higher, or init_from to null"
        )
    return [rows[n] for n in chosen]


def sampled_text(tokenizer: PreTrainedTokenizerBase, task: Task | None, most: int, key: str) -> list[int]:
    """Return `most` token ids of drawn rows of train one after the other, special tokens included.

    Raises:
        UserError: no task; `key` is the setting that asked for its rows.
    """
    text = "".join(map(_written, _drawn(_given(task, key))))
    ids: list[int] = tokenizer(text).input_ids
    return (ids * most)[:most]


def _given(task: Task | None, key: str) -> Task:
    if task is None:
        raise UserError(f"{key} needs a task, whose rows and choices are known; set init_from to null")
    return task


def _drawn(task: Task) -> list[Text]:
    train = task.splits["train"]
    rows = [train[n] for n in torch.randperm(len(train))[:CANDIDATES].tolist()]
    return [Text(row.place, row.prompt, row.target) for row in rows]


def _written(row: Text) -> str:
    return f"{row.prompt}{row.target}{SEPARATOR}"


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False).input_ids
    return found


def _length(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(_ids(tokenizer, [text])[0])
