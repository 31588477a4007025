"""Where a written answer ends, beside the token that ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class StopAt(StoppingCriteria):
    """Ends a row's answer once one of the texts stands in it, behind something else than white space."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], start: int) -> None:
        """Look at what stands behind the first `start` tokens of each row."""
        self.tokenizer, self.texts, self.start = tokenizer, texts, start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return whether each row is at its end, (B,)."""
        answers = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        return torch.tensor([before(a, self.texts) != a for a in answers], device=input_ids.device)


def before(answer: str, texts: Sequence[str]) -> str:
    """Return what stands in front of the first of the texts; white space that an answer begins with ends nothing."""
    begin = len(answer) - len(answer.lstrip())
    ends = [end for text in texts if (end := answer.find(text, begin)) >= 0]
    return answer[: min(ends)] if ends else answer
