"""Warn before training of targets that no generated prediction can equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain

from softprompts.encoding.documents import EncodedTask, answers_of
from softprompts.encoding.endings import before, read_answer, until_end
from softprompts.errors import short, warn

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

REMEMBERED = 2**16  # texts of targets; many rows share one


def lost_targets(data: EncodedTask, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return a warning if the tokenizer cannot reproduce the text of some targets from their tokens."""

    def given_back(ids: tuple[int, ...]) -> str:
        return read_answer(tokenizer, ids, data.ends)

    return _changed(data, given_back, "the tokenizer cannot reproduce")


def warn_of_cut_targets(
    data: EncodedTask, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, stop: Sequence[str]
) -> None:
    """Warn of targets that `evaluation.stop` or `evaluation.max_new_tokens` would cut; choices are never cut.

    Args:
        data: the task.
        tokenizer: the base model's tokenizer.
        max_new_tokens: most tokens of a prediction.
        stop: texts that end a prediction.
    """
    if data.task.choices is not None:
        return

    def stopped(ids: tuple[int, ...]) -> str:
        return before(read_answer(tokenizer, ids, data.ends), stop)

    def shortened(ids: tuple[int, ...]) -> str:
        return read_answer(tokenizer, until_end(ids, data.ends)[:max_new_tokens], data.ends)

    said = _changed(data, stopped, "evaluation.stop cuts off the end of") if stop else []
    said += _changed(data, shortened, f"evaluation.max_new_tokens: {max_new_tokens} tokens are too few for")
    for text in said:
        warn(text)


def _changed(data: EncodedTask, written: Callable[[tuple[int, ...]], str], what: str) -> list[str]:
    """Return a warning if `written` changes the text of some targets."""
    read = lru_cache(maxsize=REMEMBERED)(written)
    lost, first = 0, ""
    for place, given, ids in chain.from_iterable(map(answers_of, (data.train, data.validation, data.test))):
        target = given.strip()
        if target and (text := read(ids).strip()) != target:  # a user's text has none
            first = first or f"{place}: {short(target)!r} comes back as {short(text)!r}"
            lost += 1
    if not lost:
        return []
    count = sum(len(split) for split in (data.train, data.validation, data.test))
    return [f"{what} {lost} of {count} targets, so no prediction for these rows can be right: {first}"]
