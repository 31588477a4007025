"""Generate predictions: with keys and values that all rows share, or by PEFT's own `generate`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from softprompts.encoding.documents import Document
from softprompts.encoding.endings import StopAt, before, read_answer, until_end
from softprompts.engine.batches import common_head, pad
from softprompts.engine.forward import Engine
from softprompts.engine.kv_cache import States, positions_of, side_by_side
from softprompts.engine.padded import decoder_start, hidden_states_in_one_piece
from softprompts.models.loading import kind_of, max_positions, position_table
from softprompts.models.windows import window_of

import torch
from peft import PeftModel
from transformers import Cache, GenerationConfig, StoppingCriteria, StoppingCriteriaList


@torch.no_grad()
def generate(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    soft_prompts: Sequence[int] | None = None,
    stop: Sequence[str] = (),
    **sampling: Any,
) -> list[str]:
    """Continue each prompt until one of the tokens in `engine.ends`. Without `sampling`, decoding is greedy.

    Special tokens inside a prediction are part of its text. A model with a table of learned positions stops at the last
    one.

    Args:
        engine: the model, with its way of computing: packed or PEFT's own.
        prompts: token ids of each row.
        max_new_tokens: most tokens of a prediction.
        soft_prompts: number of the soft prompt before each row; by default the first.
        stop: texts that end a prediction, in addition to the end tokens; they are cut off.
        sampling: fields of transformers' `GenerationConfig`; the model's own settings are ignored, see `own_settings`.

    Raises:
        ValueError: no prompts.
    """
    settings = {"max_new_tokens": max_new_tokens} | sampling
    written = answers(engine, prompts, settings, soft_prompts=soft_prompts, stop=stop)
    return [before(read_answer(engine.tokenizer, ids, engine.ends), stop) for ids in written]


def answers(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    settings: dict[str, Any],
    *,
    soft_prompts: Sequence[int] | None = None,
    stop: Sequence[str] = (),
) -> list[list[int]]:
    """Return the token ids of each prediction without its end; `settings` as in `own_settings`."""
    if not prompts:
        raise ValueError("empty batch")
    numbers = list(soft_prompts or [0] * len(prompts))
    answers_apart = kind_of(engine.base.config) == "encoder-decoder"
    stack = engine.base.get_decoder() if answers_apart else engine.base
    positions = max_positions(engine.base, stack) if position_table(stack) is not None else None
    if answers_apart:
        most = settings["max_new_tokens"] if positions is None else min(settings["max_new_tokens"], positions)
        return _stock(engine, prompts, numbers, stop, settings | {"max_new_tokens": most})
    write = _shared if engine.packed else _stock
    virtual = {k: engine.virtual_tokens(k) for k in dict.fromkeys(numbers)}
    lengths = [(virtual[k], len(ids)) for ids, k in zip(prompts, numbers, strict=True)]
    longest = max(map(sum, lengths)) + settings["max_new_tokens"]
    if longest <= min(window_of(engine.base), math.inf if positions is None else positions):
        return write(engine, prompts, numbers, stop, settings)
    # Padding counts in a layer with a window, and a longer row would use up the positions of a shorter one. Rows of one
    # length avoid both.
    found: dict[int, list[int]] = {}
    for length in dict.fromkeys(lengths):
        chosen = [i for i, other in enumerate(lengths) if other == length]
        # The last generated token is not read.
        room = math.inf if positions is None else positions - sum(length) + 1
        some = settings | {"max_new_tokens": int(min(settings["max_new_tokens"], max(room, 1)))}
        written = write(engine, [prompts[i] for i in chosen], [numbers[i] for i in chosen], stop, some)
        found |= dict(zip(chosen, written, strict=True))
    return [found[i] for i in range(len(prompts))]


@contextmanager
def own_settings(base: Any, ends: Sequence[int], settings: dict[str, Any]) -> Iterator[GenerationConfig]:
    """Within this context, a base model generates only by these settings, not by those of its folder.

    A model's generation_config.json may have penalties, beams, sampling or a kind of cache. Transformers would fill
    every gap of a call's settings with them, so they are put aside. Without `settings` this is plain greedy decoding.

    Args:
        base: the base model.
        ends: token ids that end a prediction.
        settings: fields of `GenerationConfig`, including `max_new_tokens`.
    """
    sampled = {"top_k": 0} if settings.get("do_sample") else {}  # transformers samples from 50 tokens by default
    config = GenerationConfig(
        **{"do_sample": False, "num_beams": 1, "use_cache": True} | sampled | settings,
        eos_token_id=sorted(ends) or None,
        # It fills rows that have ended, and places of tokens with cached keys and values. It is never read.
        pad_token_id=0,
        decoder_start_token_id=decoder_start(base) if kind_of(base.config) == "encoder-decoder" else None,
        return_dict_in_generate=True,
    )
    before, base.generation_config = base.generation_config, config
    try:
        yield config
    finally:
        base.generation_config = before


class HalfEnded(StoppingCriteria):
    """End a row where `stop` does, and all rows as soon as at least half of them have ended.

    `ended` (B,) then marks the ended rows.
    """

    def __init__(self, stop: StopAt, ends: Sequence[int]) -> None:
        """Set the criteria. `ends` also end a prediction; transformers itself stops there."""
        self.stop, self.ends = stop, torch.tensor(ends, dtype=torch.long)
        self.ended = torch.zeros(0, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return whether each row has ended, (B,)."""
        answers = input_ids[:, self.stop.start :]
        self.ended = torch.isin(answers, self.ends.to(answers.device)).any(1)
        if self.stop.texts:
            self.ended |= self.stop(input_ids, scores)
        return torch.ones_like(self.ended) if 2 * self.ended.sum() >= len(self.ended) else self.ended


def _shared(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    stop: Sequence[str],
    settings: dict[str, Any],
) -> list[list[int]]:
    """Compute the keys and values of the soft prompts, and of their texts' common beginnings, once.

    They are cached before all rows. Text is padded on the left, and its positions follow those of its soft prompt
    without a gap. PEFT's own `generate` counts the padding, so its output depends on the batch.
    """
    with engine.prompts_cached():
        behind = {k: [tuple(p) for p, o in zip(prompts, numbers, strict=True) if o == k] for k in numbers}
        longest = max(engine.virtual_tokens(k) + max(map(len, texts)) for k, texts in behind.items())
        # A layer with a shorter window would keep only the end of a head.
        fits = longest + settings["max_new_tokens"] <= window_of(engine.base)
        heads = {k: common_head(texts) if fits else 0 for k, texts in behind.items()}
        fronts = [engine.cached_states(k, behind[k][0][: heads[k]]) for k in numbers]
        rest = [ids[heads[k] :] for ids, k in zip(prompts, numbers, strict=True)]
        with hidden_states_in_one_piece(engine.model):
            return decode(engine, rest, fronts, stop, settings)


def decode(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    fronts: Sequence[States | None],
    stop: Sequence[str],
    settings: dict[str, Any],
) -> list[list[int]]:
    """Continue rows of tokens, and remove ended rows from the batch, half of it at a time.

    Predictions have very different lengths, and transformers' `generate` computes every row until the last one ends.
    Returns the token ids of each prediction, without its end.

    Args:
        engine: over a decoder.
        prompts: token ids of each row after its front; not empty.
        fronts: keys and values of the first positions of each row, or None.
        stop: texts that end a prediction; they stay in it.
        settings: as in `own_settings`.
    """
    base, cache, (ids, mask) = engine.base, _side_by_side(fronts), _padded_on_the_left(prompts, fronts, engine.device)
    width = ids.shape[1]
    found: list[list[int]] = [[] for _ in prompts]
    left = list(range(len(prompts)))
    counts = {key: settings[key] for key in ("max_new_tokens", "min_new_tokens") if key in settings}
    while True:
        written = ids.shape[1] - width
        half = HalfEnded(StopAt(engine.tokenizer, stop, width), engine.ends)
        still = settings | {key: max(0, count - written) for key, count in counts.items()}
        with own_settings(base, engine.ends, still) as config:
            output = base.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([half]),
            )
        ids, cache = output.sequences, output.past_key_values
        for row, answer in zip(left, ids[:, width:].tolist(), strict=True):
            found[row] = until_end(answer, engine.ends)
        if half.ended.all() or ids.shape[1] - width >= settings["max_new_tokens"]:
            return found
        rows: Any = (~half.ended).nonzero().flatten()  # `reorder_cache` is typed for LongTensor
        left = [left[i] for i in rows.tolist()]
        mask = torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], dim=1)[rows]
        ids = ids[rows]
        if cache is not None:
            # Meant for beams, but works for fewer rows. `batch_select_indices` ignores a layer's recurrent states.
            cache.reorder_cache(rows)


def _side_by_side(fronts: Sequence[States | None]) -> Cache | None:
    virtual = max(map(positions_of, fronts))
    return side_by_side(fronts, virtual) if virtual else None


def _padded_on_the_left(
    prompts: Sequence[Sequence[int]], fronts: Sequence[States | None], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask (B, P + S): S tokens of the longest row after the P positions of the longest front."""
    virtual = max(map(positions_of, fronts))
    width = virtual + max(map(len, prompts))
    # Tokens with cached keys and values are not read; the padding only keeps their places.
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, (text, front) in enumerate(zip(prompts, fronts, strict=True)):
        ids[index, width - len(text) :] = torch.tensor(text)
        mask[index, width - len(text) :] = 1
        mask[index, virtual - positions_of(front) : virtual] = 1
    return ids.to(device), mask.to(device)


def _stock(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    stop: Sequence[str],
    settings: dict[str, Any],
) -> list[list[int]]:
    """Generate with PEFT, in one call for each soft prompt and, with a decoder, each length of a row.

    An encoder-decoder may read rows of different lengths together. A decoder may not, because PEFT counts padding as
    positions, and a prediction would depend on the other rows.
    """
    encoded = kind_of(engine.base.config) == "encoder-decoder"
    common = [engine.read_with(ids) if encoded else len(ids) for ids in prompts]
    found: dict[int, list[int]] = {}
    groups = list(zip(numbers, common, strict=True))
    for group in dict.fromkeys(groups):
        chosen = [i for i, other in enumerate(groups) if other == group]
        number, task = engine.owners[group[0]]
        model: Any = engine.bank[number]
        # PEFT would use a soft prompt that is switched off.
        off = isinstance(model, PeftModel) and not model.has_active_enabled_adapter
        arguments = {} if task is None or off else {"task_ids": torch.full((len(chosen),), task, device=engine.device)}
        batch = pad([Document(tuple(prompts[i]), (0,)) for i in chosen], engine.device)
        start = 1 if encoded else batch.input_ids.shape[1]
        with own_settings(engine.base, engine.ends, settings) as config:
            output = (engine.base if off else model).generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([StopAt(engine.tokenizer, stop, start)] if stop else []),
                **arguments,
            )
        written = output.sequences[:, start:].tolist()
        found |= {i: until_end(ids, engine.ends) for i, ids in zip(chosen, written, strict=True)}
    return [found[i] for i in range(len(prompts))]
