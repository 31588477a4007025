"""Where a written answer ends, beside the token that ends it, and writing a batch whose rows end one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, StoppingCriteria, StoppingCriteriaList
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class StopAt(StoppingCriteria):
    """Ends a row's answer once one of the texts stands in it, behind something else than white space."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], start: int) -> None:
        """Look at what stands behind the first `start` tokens of each row."""
        self.tokenizer, self.texts, self.start = tokenizer, texts, start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return whether each row is at its end, (B,)."""
        if not self.texts:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        answers = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        return torch.tensor([before(a, self.texts) != a for a in answers], device=input_ids.device)


class HalfEnded(StoppingCriteria):
    """Ends a row's answer where `ends` does, and all rows' once at least half of them have ended.

    `ended` (B,) then says which these are.
    """

    def __init__(self, ends: StopAt, end_tokens: Sequence[int]) -> None:
        """`end_tokens` end an answer, too: transformers itself stops there."""
        self.ends, self.end_tokens = ends, torch.tensor(end_tokens, dtype=torch.long)
        self.ended = torch.zeros(0, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return whether each row is at its end, (B,)."""
        answers = input_ids[:, self.ends.start :]
        self.ended = self.ends(input_ids, scores) | torch.isin(answers, self.end_tokens.to(answers.device)).any(1)
        return torch.ones_like(self.ended) if 2 * self.ended.sum() >= len(self.ended) else self.ended


def write_answers(
    base: Any,
    tokenizer: PreTrainedTokenizerBase,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: Cache | None,
    stop: Sequence[str],
    how: dict[str, Any],
) -> list[str]:
    """Continue rows of tokens, and take out of the batch those that have ended, half of it at a time.

    Answers end at very different lengths, and transformers' `generate` computes every row until the last one ends.

    Args:
        base: a decoder.
        tokenizer: its tokenizer.
        ids: tokens of the rows (B, W), padded on the left.
        mask: 1 where a token is seen, (B, W).
        cache: keys and values of the first tokens of each row, or None.
        stop: texts that end an answer; they stay in it.
        how: arguments of `generate`; `max_new_tokens` is one of them.
    """
    width = ids.shape[1]
    end_tokens = base.generation_config.eos_token_id
    end_tokens = [] if end_tokens is None else end_tokens if isinstance(end_tokens, list) else [end_tokens]
    texts = [""] * len(ids)
    left = list(range(len(ids)))
    while left:
        written = ids.shape[1] - width
        half = HalfEnded(StopAt(tokenizer, stop, width), end_tokens)
        output = base.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            pad_token_id=tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([half]),
            return_dict_in_generate=True,
            **{key: value - written if key in COUNTS else value for key, value in how.items()},
        )
        ids = output.sequences
        full = ids.shape[1] - width >= how["max_new_tokens"]
        go_on = [] if full else [i for i, ended in enumerate(half.ended.tolist()) if not ended]
        for i, text in enumerate(tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)):
            texts[left[i]] = text
        rows = torch.tensor(go_on, dtype=torch.long, device=ids.device)
        mask = torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], dim=1)[rows]
        ids, left, cache = ids[rows], [left[i] for i in go_on], picked(output.past_key_values, rows)
    return texts


# Arguments of `generate` that count the tokens that it writes.
COUNTS = ("max_new_tokens", "min_new_tokens")


def picked(cache: Cache | None, rows: torch.Tensor) -> Cache | None:
    """Return the cache with only these rows; None, so that all is computed again, for one that cannot be cut so."""
    if cache is None or not all(hasattr(layer, "batch_select_indices") for layer in cache.layers):
        return None
    cache.batch_select_indices(rows)
    return cache


def before(answer: str, texts: Sequence[str]) -> str:
    """Return what stands in front of the first of the texts; white space that an answer begins with ends nothing."""
    begin = len(answer) - len(answer.lstrip())
    ends = [end for text in texts if (end := answer.find(text, begin)) >= 0]
    return answer[: min(ends)] if ends else answer
