"""Find the end of a generated prediction: an end token, or a text of `evaluation.stop`."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class StopAt(StoppingCriteria):
    """End a row's prediction once it contains one of the texts after a character that is not white space."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], start: int) -> None:
        """Check each row from token number `start` on."""
        self.tokenizer, self.texts, self.start = tokenizer, texts, start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return whether each row has ended, (B,)."""
        answers = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=False)
        return torch.tensor([before(a, self.texts) != a for a in answers], device=input_ids.device)


def until_end(ids: Sequence[int], ends: Collection[int]) -> list[int]:
    """Return the token ids before the first end token."""
    return list(itertools.takewhile(lambda token: token not in ends, ids))


def read_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], ends: Collection[int]) -> str:
    """Return the text of token ids up to the first end token. Special tokens before it are part of the text."""
    return str(tokenizer.decode(until_end(ids, ends), skip_special_tokens=False))


def before(answer: str, texts: Sequence[str]) -> str:
    """Return the prediction up to the first of the texts. Leading white space does not count as such a text."""
    begin = len(answer) - len(answer.lstrip())
    ends = [end for text in texts if (end := answer.find(text, begin)) >= 0]
    return answer[: min(ends)] if ends else answer
