"""Continuing a batch of texts whose answers end one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softprompts.endings import StopAt

import torch
from transformers import Cache, StoppingCriteria, StoppingCriteriaList
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

COUNTS = ("max_new_tokens", "min_new_tokens")  # arguments of `generate` that count the tokens it writes


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
        self.ended = torch.isin(answers, self.end_tokens.to(answers.device)).any(1)
        if self.ends.texts:
            self.ended |= self.ends(input_ids, scores)
        return torch.ones_like(self.ended) if 2 * self.ended.sum() >= len(self.ended) else self.ended


def decode(
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
    while True:
        written = ids.shape[1] - width
        half = HalfEnded(StopAt(tokenizer, stop, width), end_tokens)
        output = base.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            pad_token_id=tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([half]),
            return_dict_in_generate=True,
            **{key: max(0, value - written) if key in COUNTS else value for key, value in how.items()},
        )
        ids, cache = output.sequences, output.past_key_values
        for row, text in zip(left, tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True), strict=True):
            texts[row] = text
        if half.ended.all() or ids.shape[1] - width >= how["max_new_tokens"]:
            return texts
        rows: Any = (~half.ended).nonzero().flatten()  # `reorder_cache` is typed for LongTensor
        left = [left[i] for i in rows.tolist()]
        mask = torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], dim=1)[rows]
        ids = ids[rows]
        if cache is not None:
            # Meant for beams, but fewer rows will do. `batch_select_indices` passes over a layer's recurrent states.
            cache.reorder_cache(rows)
