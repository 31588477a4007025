"""Where a written answer ends, beside the token that ends it."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class StopAt(StoppingCriteria):
    """Ends a row's answer once it contains one of the texts, after something else than white space."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], start: int) -> None:
        """Look at each row from token number `start` on."""
        self.tokenizer, self.texts, self.start = tokenizer, texts, start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return whether each row is at its end, (B,)."""
        answers = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=False)
        return torch.tensor([before(a, self.texts) != a for a in answers], device=input_ids.device)


def until_end(ids: Sequence[int], ends: Collection[int]) -> list[int]:
    """Return the token ids before the first that ends an answer."""
    return list(itertools.takewhile(lambda token: token not in ends, ids))


def read_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], ends: Collection[int]) -> str:
    """Return the text of an answer's token ids: whatever follows an end is not part of it, special tokens are."""
    return str(tokenizer.decode(until_end(ids, ends), skip_special_tokens=False))


def before(answer: str, texts: Sequence[str]) -> str:
    """Return the answer up to the first of the texts; white space that an answer begins with ends nothing."""
    begin = len(answer) - len(answer.lstrip())
    ends = [end for text in texts if (end := answer.find(text, begin)) >= 0]
    return answer[: min(ends)] if ends else answer
