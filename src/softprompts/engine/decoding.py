"""Continuing texts: with settings of our own, in a batch whose answers end one after another, or by PEFT itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from softprompts.engine.batches import pad
from softprompts.engine.kv_cache import States, positions_of, side_by_side
from softprompts.engine.padded import decoder_start
from softprompts.models.loading import kind_of
from softprompts.tasks.documents import Document
from softprompts.tasks.endings import StopAt, until_end

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@contextmanager
def own_settings(base: Any, ends: Sequence[int], how: dict[str, Any]) -> Iterator[GenerationConfig]:
    """Within this context a base model generates by these settings alone, whatever its folder says of generation.

    A model's generation_config.json may hold penalties, beams, samples, another cache or none. Transformers would fill
    every gap of a call's settings with them, so that they are put aside. Without `how` this is plain greedy decoding.

    Args:
        base: the base model.
        ends: token ids that end an answer.
        how: fields of `GenerationConfig`; `max_new_tokens` is one of them.
    """
    sampled = {"top_k": 0} if how.get("do_sample") else {}  # transformers would draw among 50 tokens by default
    settings = GenerationConfig(
        **{"do_sample": False, "num_beams": 1, "use_cache": True} | sampled | how,
        eos_token_id=sorted(ends) or None,
        # It fills up rows that have ended, and the place of tokens whose keys and values are cached: never read.
        pad_token_id=0,
        decoder_start_token_id=decoder_start(base) if kind_of(base.config) == "encoder-decoder" else None,
        return_dict_in_generate=True,
    )
    before, base.generation_config = base.generation_config, settings
    try:
        yield settings
    finally:
        base.generation_config = before


class HalfEnded(StoppingCriteria):
    """Ends a row's answer where `stop` does, and all rows' once at least half of them have ended.

    `ended` (B,) then says which these are.
    """

    def __init__(self, stop: StopAt, ends: Sequence[int]) -> None:
        """`ends` are tokens that end an answer, too: transformers itself stops there."""
        self.stop, self.ends = stop, torch.tensor(ends, dtype=torch.long)
        self.ended = torch.zeros(0, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return whether each row is at its end, (B,)."""
        answers = input_ids[:, self.stop.start :]
        self.ended = torch.isin(answers, self.ends.to(answers.device)).any(1)
        if self.stop.texts:
            self.ended |= self.stop(input_ids, scores)
        return torch.ones_like(self.ended) if 2 * self.ended.sum() >= len(self.ended) else self.ended


def decode(
    base: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    fronts: Sequence[States | None],
    stop: Sequence[str],
    ends: Sequence[int],
    how: dict[str, Any],
) -> list[list[int]]:
    """Continue rows of tokens, and take out of the batch those that have ended, half of it at a time.

    Answers end at very different lengths, and transformers' `generate` computes every row until the last one ends.
    Returns the token ids of each answer, without its end.

    Args:
        base: a decoder.
        tokenizer: its tokenizer.
        prompts: token ids of each row, behind its front; not empty.
        fronts: keys and values of the first positions of each row, or None.
        stop: texts that end an answer; they stay in it.
        ends: token ids that end an answer.
        how: as in `own_settings`.
    """
    device = base.get_input_embeddings().weight.device
    virtual = max(map(positions_of, fronts))
    width = virtual + max(map(len, prompts))
    # Tokens whose keys and values are in the cache already are not read: the padding there only keeps their place.
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, (text, front) in enumerate(zip(prompts, fronts, strict=True)):
        ids[index, width - len(text) :] = torch.tensor(text)
        mask[index, width - len(text) :] = 1
        mask[index, virtual - positions_of(front) : virtual] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache: Any = side_by_side(fronts, virtual) if virtual else None
    answers: list[list[int]] = [[] for _ in ids]
    left = list(range(len(ids)))
    counts = {key: how[key] for key in ("max_new_tokens", "min_new_tokens") if key in how}  # of the tokens it writes
    while True:
        written = ids.shape[1] - width
        half = HalfEnded(StopAt(tokenizer, stop, width), ends)
        with own_settings(base, ends, how | {key: max(0, n - written) for key, n in counts.items()}) as settings:
            output = base.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([half]),
            )
        ids, cache = output.sequences, output.past_key_values
        for row, answer in zip(left, ids[:, width:].tolist(), strict=True):
            answers[row] = until_end(answer, ends)
        if half.ended.all() or ids.shape[1] - width >= how["max_new_tokens"]:
            return answers
        rows: Any = (~half.ended).nonzero().flatten()  # `reorder_cache` is typed for LongTensor
        left = [left[i] for i in rows.tolist()]
        mask = torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], dim=1)[rows]
        ids = ids[rows]
        if cache is not None:
            # Meant for beams, but fewer rows will do. `batch_select_indices` passes over a layer's recurrent states.
            cache.reorder_cache(rows)


def stock_decode(
    model: Any,
    base: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    stop: Sequence[str],
    ends: Sequence[int],
    how: dict[str, Any],
    device: torch.device,
    **arguments: Any,
) -> list[list[int]]:
    """Continue prompts by PEFT's own `generate`, and return the token ids of each answer, without its end.

    An encoder-decoder reads them side by side. A decoder reads only those of one length together: PEFT counts padding
    into the positions, so that an answer would depend on the other rows.

    Args:
        model: the base model, or a PEFT model over it.
        base: the base model, whose settings of generation are put aside.
        tokenizer: its tokenizer.
        prompts: token ids of each row.
        stop: texts that end an answer; they stay in it.
        ends: token ids that end an answer.
        how: as in `own_settings`.
        device: of the model.
        arguments: go to the model's `generate`.
    """
    encoded = kind_of(base.config) == "encoder-decoder"
    lengths = [0 if encoded else len(prompt) for prompt in prompts]
    answers: dict[int, list[int]] = {}
    for length in dict.fromkeys(lengths):
        chosen = [i for i, other in enumerate(lengths) if other == length]
        batch = pad([Document(tuple(prompts[i]), (0,)) for i in chosen], device)
        start = 1 if encoded else length
        criteria = StoppingCriteriaList([StopAt(tokenizer, stop, start)] if stop else [])
        # A row of its own number for each of the batch, for multitask prompt tuning.
        own = {key: value.expand(len(chosen)) for key, value in arguments.items()}
        with own_settings(base, ends, how) as settings:
            output = model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                generation_config=settings,
                stopping_criteria=criteria,
                **own,
            )
        written = output.sequences[:, start:].tolist()
        answers |= {i: until_end(ids, ends) for i, ids in zip(chosen, written, strict=True)}
    return [answers[i] for i in range(len(prompts))]
