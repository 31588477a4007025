"""Score choices by their likelihood: the model reads the prompt once, then each choice after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from softprompts.engine.kv_cache import States, positions_of, side_by_side, states_in

import torch
from transformers import DynamicCache

TOKENS = 2048  # most tokens of choices that are read at once: 0.4 GB of logits at 49,152 words


@torch.inference_mode()
def read_prompt(base: Any, front: States | None, prompt_ids: Sequence[int]) -> States | None:
    """Return the keys and values of a soft prompt and of all tokens of a prompt except the last; None if both lack.

    Args:
        base: a decoder.
        front: keys and values of the soft prompt before the prompt.
        prompt_ids: token ids of the prompt, not empty.
    """
    if len(prompt_ids) == 1:
        return front
    cache = side_by_side([front], positions_of(front)) if front else DynamicCache()
    _read(base, cache, [prompt_ids[:-1]], positions_of(front), keep=1)
    return states_in(cache, positions_of(front) + len(prompt_ids) - 1)


def parts_of(choices: Sequence[Sequence[int]], before: int, positions: int) -> list[slice]:
    """Return the parts of choices that are read at once, limited by memory for logits, keys and values.

    Args:
        choices: token ids of each choice.
        before: number of positions before a choice.
        positions: greatest number of positions with keys and values over all rows.
    """
    width = max(map(len, choices))
    most = len(choices) if width == 1 else max(1, min(TOKENS // width, positions // (before + width)))
    return [slice(begin, begin + most) for begin in range(0, len(choices), most)]


@torch.inference_mode()
def log_likelihoods(base: Any, before: States | None, last: int, choices: Sequence[Sequence[int]]) -> list[float]:
    """Return the log-likelihood of each choice, in nats, summed over its tokens.

    Args:
        base: a decoder.
        before: the keys and values from `read_prompt`.
        last: the last token of the prompt, which predicts the first token of each choice.
        choices: token ids of each choice, not empty.

    Raises:
        FloatingPointError: logits are not finite.
    """
    start = positions_of(before)
    rows = [[last, *choice[:-1]] for choice in choices]  # the last token of a choice is not read
    if max(map(len, rows)) == 1:  # the same row for all
        cache = side_by_side([before], start) if before else DynamicCache()
        found = _read(base, cache, rows[:1], start)[0, -1].log_softmax(-1)
        return _checked(found[torch.tensor([choice[0] for choice in choices], device=found.device)].tolist())
    cache = side_by_side([before] * len(rows), start) if before else DynamicCache()
    scores = []
    for row, target in zip(_read(base, cache, rows, start), choices, strict=True):
        ids = torch.tensor(target, device=row.device)
        scores.append(row[: len(target)].log_softmax(-1).gather(1, ids[:, None]).sum().item())
    return _checked(scores)


def _read(base: Any, cache: DynamicCache, rows: Sequence[Sequence[int]], start: int, keep: int = 0) -> torch.Tensor:
    """Return the logits, (B, S, V) float32, of rows from position `start` on; shorter ones are padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=base.device)
    positions = torch.arange(start, start + width, device=base.device)[None].expand(len(rows), -1)
    output = base(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=keep)
    return output.logits.float()


def _checked(scores: list[float]) -> list[float]:
    if not all(map(math.isfinite, scores)):
        raise FloatingPointError("the model's scores are not finite")
    return scores
