"""Make texts for initial values: an instruction, a task's possible outputs, or few-shot examples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from softprompts.errors import UserError, notice
from softprompts.tasks.rows import Text
from softprompts.tasks.task import Task, in_words, outputs_in_words

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

CANDIDATES = 1000  # random rows that are looked at together
FEWEST = 100  # if fewer of them fit, more rows are looked at
MOST = 20 * CANDIDATES  # rows that are looked at
SEPARATOR = "\n\n"  # ends a demonstration, and by default the few-shot examples of hard prompts


def initial_text(
    source: str,
    task: Task | None,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    *,
    first: str | None = None,
    section: str,
) -> str:
    """Return the text for `init_from`.

    Args:
        source: instruction, outputs or demonstrations.
        task: the task of the soft prompt; without a task there is no text.
        tokenizer: the base model's tokenizer.
        count: number of virtual tokens, which limits the number of demonstrations.
        first: a text that precedes the others.
        section: the section of the settings, for messages.

    Raises:
        UserError: the task is missing; it has neither choices nor a schema for outputs; no row of train fits.
    """
    key = f"{section}.init_from: {source}"
    task = _given(task, key)
    if source == "demonstrations":
        start = f"{first}{SEPARATOR}" if first else ""
        rows = demonstrations(task, tokenizer, count, section, start=start)
        text = start + "".join(map(_written, rows))
        notice(f"{key}: {len(rows)} rows of train, {_length(tokenizer, text)} of {count} virtual tokens")
        return text
    found = in_words(task) if source == "instruction" else outputs_in_words(task)
    if found is None:
        raise UserError(f"{key} requires task.choices or task.schema; set init_from to demonstrations or null")
    text = f"{first} {found}" if first else found
    length = _length(tokenizer, text)
    if length > count:
        notice(f"{key}: the text has {length} tokens; {section}.num_virtual_tokens keeps the first {count}")
    return text


def demonstrations(
    task: Task, tokenizer: PreTrainedTokenizerBase, count: int, section: str, *, start: str = ""
) -> list[Text]:
    """Choose rows of train for their coverage. Each next row adds most to the coverage of those before it.

    Coverage means choices, or the tokens of open targets. When everything is covered, it starts again, so that choices
    alternate. Levy et al. (2023), "Diverse Demonstrations Improve In-context Compositional Generalization", also choose
    by parts of the output. PyTorch's generator decides the order of rows that add the same.

    Args:
        task: the task. Candidates are those of `CANDIDATES` random rows of train that fit. If they are fewer than
            `FEWEST`, more rows are looked at, up to `MOST`.
        tokenizer: the base model's tokenizer.
        count: most tokens of the text: its start, and the rows with their separators.
        section: the section of the settings, for messages.
        start: a text that precedes the rows.

    Returns:
        As many rows as fit.

    Raises:
        UserError: no row fits.
    """
    room = count - _length(tokenizer, start)
    rows, lengths = _fitting(task, tokenizer, room)
    targets = [row.target for row in rows]
    parts: list[Collection[object]] = [{t} for t in targets] if task.choices else [*map(set, _ids(tokenizer, targets))]
    chosen: list[int] = []
    covered: set[object] = set()
    text, left = start, list(range(len(rows)))
    while left := [n for n in left if lengths[n] <= room]:
        if all(covered.issuperset(parts[n]) for n in left):
            covered = set()
        best = max(left, key=lambda n: len(set(parts[n]) - covered))
        left.remove(best)
        # Text after a separator may change its tokens: in SmolLM2's, two line ends are one token only at the end.
        if (length := _length(tokenizer, text + _written(rows[best]))) <= count:
            text += _written(rows[best])
            room = count - length
            chosen.append(best)
            covered.update(parts[best])
    if not chosen:
        raise UserError(
            f"{section}.init_from: demonstrations: no row of train fits into the remaining {max(room, 0)} virtual "
            f"tokens: the shortest has {min(lengths)}; raise {section}.num_virtual_tokens, or set init_from to null"
        )
    return [rows[n] for n in chosen]


def sampled_text(tokenizer: PreTrainedTokenizerBase, task: Task | None, most: int, key: str) -> list[int]:
    """Return `most` token ids of random rows of train in sequence, including special tokens.

    Raises:
        UserError: the task is missing; `key` is the setting that requires its rows.
    """
    text = "".join(map(_written, next(_drawn(_given(task, key)))))
    ids: list[int] = tokenizer(text).input_ids
    return (ids * most)[:most]


def _given(task: Task | None, key: str) -> Task:
    if task is None:
        raise UserError(f"{key} requires a task with its rows and choices; set init_from to null")
    return task


def _drawn(task: Task) -> Iterator[list[Text]]:
    """Return the rows of train in random order, in groups of `CANDIDATES`."""
    train = task.splits["train"]
    order = torch.randperm(len(train)).tolist()
    for first in range(0, len(order), CANDIDATES):
        rows = [train[n] for n in order[first : first + CANDIDATES]]
        yield [Text(row.place, row.prompt, row.target) for row in rows]


def _fitting(task: Task, tokenizer: PreTrainedTokenizerBase, room: int) -> tuple[list[Text], list[int]]:
    """Return random rows, and the number of tokens of each. At least `FEWEST` of them fit, if train has as many.

    The rows that do not fit are in the list, too: a message names the shortest one.
    """
    rows: list[Text] = []
    lengths: list[int] = []
    for group in _drawn(task):
        rows += group
        lengths += [len(ids) for ids in _ids(tokenizer, list(map(_written, group)))]
        if sum(length <= room for length in lengths) >= FEWEST or len(rows) >= MOST:
            break
    return rows, lengths


def _written(row: Text) -> str:
    return f"{row.prompt}{row.target}{SEPARATOR}"


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False).input_ids
    return found


def _length(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(_ids(tokenizer, [text])[0])
