"""Targets that no written answer can equal: warnings of one line, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import chain

from softprompts.errors import short, warn
from softprompts.tasks.documents import EncodedTask, Example
from softprompts.tasks.endings import before, read_answer, until_end

from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def warn_of_lost_targets(data: EncodedTask, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn of targets that would not read as they are written, even if the model wrote them token by token."""

    def given_back(example: Example) -> str:
        return read_answer(tokenizer, example.document.target_ids, data.ends)

    _warn(data, given_back, "the tokenizer cannot give back")


def warn_of_cut_targets(
    data: EncodedTask, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, stop: Sequence[str]
) -> None:
    """Warn of targets that `evaluation.stop` or `evaluation.max_new_tokens` cut off; choices are not written.

    Args:
        data: the task.
        tokenizer: the base model's.
        max_new_tokens: the longest answer, in tokens.
        stop: texts that end an answer.
    """
    if data.task.choices is not None:
        return

    def stopped(example: Example) -> str:
        return before(read_answer(tokenizer, example.document.target_ids, data.ends), stop)

    def shortened(example: Example) -> str:
        written: Collection[int] = until_end(example.document.target_ids, data.ends)[:max_new_tokens]
        return read_answer(tokenizer, list(written), data.ends)

    if stop:
        _warn(data, stopped, "evaluation.stop cuts off the end of")
    _warn(data, shortened, f"evaluation.max_new_tokens: {max_new_tokens} tokens are too few for")


def _warn(data: EncodedTask, written: Callable[[Example], str], what: str) -> None:
    """Warn of targets of which `written` leaves another text."""
    lost = []
    for example in chain(data.train, data.validation, data.test):
        text, target = written(example).strip(), example.row.target.strip()
        if target and text != target:  # a text of one's own has none
            lost.append((example.row.place, target, text))
    if lost:
        place, target, text = lost[0]
        count = sum(len(split) for split in (data.train, data.validation, data.test))
        warn(
            f"{what} {len(lost)} of {count} targets, so that no answer to these rows can be right: "
            f"{place}: {short(target)!r} comes back as {short(text)!r}"
        )
