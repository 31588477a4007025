"""Continuous batching: rows with different soft prompts are decoded together, and join and leave between two steps.

A row has the keys and values of its soft prompt, its text and its answer so far. Each row counts its own positions and
sees only its own keys, so its answer does not depend on the other rows. "Orca" (Yu et al. 2022) also batches at the
level of a step.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from softprompts.config.sections import ModelConfig
from softprompts.engine.kv_cache import States, positions_of, side_by_side
from softprompts.errors import UserError
from softprompts.models.loading import kind_of, load_model_config, refuse_forward
from softprompts.models.windows import unknown_layers, window_of
from softprompts.serving.slots import Slots

import torch
from transformers import Cache, DynamicCache


@dataclass(frozen=True)
class Sampling:
    """Settings that choose a row's tokens.

    temperature: 0 chooses the likeliest token; otherwise logits are divided by it. top_p: sample from the smallest set
    of tokens that has this probability (Holtzman et al. 2020). seed: seed of the row's own samples; other rows of the
    batch do not affect them.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(eq=False)
class Row:
    """A request in the batch.

    prompt_ids: tokens of the text, not empty; front: keys and values of its soft prompt, or None; most: greatest number
    of answer tokens; ends: tokens that end its answer, in addition to those of the batch; top: number of likeliest
    tokens to report per position; written and logprobs: the answer so far, and the log-probability of each token at
    temperature 1; likeliest: for each position, `top` tokens with their log-probabilities, the likeliest first; failed:
    whether the answer ended because the row's logits were not finite.
    """

    prompt_ids: Sequence[int]
    front: States | None
    most: int
    sampling: Sampling = Sampling()
    ends: frozenset[int] = frozenset()
    top: int = 0
    written: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[list[tuple[int, float]]] = field(default_factory=list)
    failed: bool = False
    generator: torch.Generator | None = None

    @property
    def positions(self) -> int:
        """Positions that the row needs with a whole answer; the model does not read the last written token."""
        return positions_of(self.front) + len(self.prompt_ids) + self.most - 1


class Batch:
    """Rows that one base model decodes together.

    A row is in `rows` from `join` until `leave`, or until its answer ends by one of `ends` or by its length.

    Raises:
        UserError: rows of different lengths cannot share a cache in the base model's layers.
    """

    def __init__(self, base: Any, ends: Collection[int]) -> None:
        check_base(base)
        self.base = base
        self.ends = frozenset(ends)
        self.rows: list[Row] = []
        self.slots: Slots | None = None  # keys and values of the rows, in their order

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> list[Row]:
        """Read the prompts of new rows, write the first token of each, and return those that end with it."""
        if not rows:
            return []
        fronts, lengths = [positions_of(row.front) for row in rows], [len(row.prompt_ids) for row in rows]
        front, width = max(fronts), max(lengths)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), front + width, dtype=torch.bool)
        # For each row, the columns of its soft prompt and of its text; both are padded on the left.
        columns = [
            (slice(front - mine, front), slice(front + width - length, front + width))
            for mine, length in zip(fronts, lengths, strict=True)
        ]
        for index, (row, (own, text)) in enumerate(zip(rows, columns, strict=True)):
            ids[index, text.start - front :] = torch.tensor(row.prompt_ids)
            mask[index, own] = mask[index, text] = True
        mask = mask.to(self.base.device)
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, front:]
        cache = side_by_side([row.front for row in rows], front) if front else DynamicCache()
        logits = self._read(cache, mask, ids.to(self.base.device), positions)
        layers: list[Any] = cache.layers
        states = [(layer.keys, layer.values) for layer in layers]
        self.slots = self.slots or Slots(states)
        for index, stretches in enumerate(columns):
            self.slots.add(states, index, stretches)
        self.rows += rows
        return self._write(rows, logits)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Write one more token of every row, and return the rows that end with it."""
        if not self.rows or self.slots is None:
            return []
        positions, mask = self.slots.read_next(self.base.device)
        ids = torch.tensor([[row.written[-1]] for row in self.rows], device=self.base.device)
        logits = self._read(self.slots.cache, mask, ids, positions[:, None])
        self.slots.written()
        return self._write(list(self.rows), logits)

    @torch.inference_mode()
    def leave(self, rows: Collection[Row]) -> None:
        """Remove rows, whether or not they have ended; ignore rows that are not in this batch."""
        gone = {id(row) for row in rows}
        # From the last to the first, because the last row moves to the place of the removed one.
        for index in reversed(range(len(self.rows))):
            if id(self.rows[index]) in gone and self.slots is not None:
                self.slots.remove(index)
                self.rows[index] = self.rows[-1]
                self.rows.pop()
        if not self.rows:
            self.slots = None

    def _read(self, cache: Cache, mask: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Read `ids` at `positions`, both (B, S), after a cache, and return the last logits, (B, V) float32."""
        output = self.base(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _write(self, rows: Sequence[Row], logits: torch.Tensor) -> list[Row]:
        """Choose the next token of rows of the batch, and return those whose answer ends."""
        tokens, log_probabilities = choose(logits, rows)
        ended = []
        for row, token, logprobs in zip(rows, tokens, log_probabilities, strict=True):
            row.failed = token is None
            if token is None or token in self.ends or token in row.ends:
                ended.append(row)
                continue
            row.written.append(token)
            row.logprobs.append(logprobs[token].item())
            if row.top:
                best, ids = logprobs.topk(row.top)
                row.likeliest.append(list(zip(ids.tolist(), best.tolist(), strict=True)))
            if len(row.written) == row.most:
                ended.append(row)
        self.leave(ended)
        return ended


def check_served(config: ModelConfig) -> None:
    """Check a base model by its config, before its weights are read.

    Raises:
        UserError: as `check_base`; a setting of the forward pass is given, which is the server's own.
    """
    refuse_forward(config, "recipes/serve.py")
    check_base(SimpleNamespace(config=load_model_config(config), name_or_path=config.name_or_path))


def check_base(base: Any) -> None:
    """Raise `UserError` if rows of different lengths cannot share a cache, for example in layers with a window.

    Args:
        base: the base model, or its `config` and its `name_or_path`.
    """
    reason = None if kind_of(base.config) == "decoder" else "it is not a decoder"
    reason = reason or unknown_layers(base)
    if reason is None and getattr(base, "_is_stateful", False):  # transformers' mark of such models
        reason = "it has layers with a recurrent state"
    if reason is None and window_of(base) < math.inf:
        reason = f"it has layers that look back only {window_of(base):.0f} positions"
    if reason:
        raise UserError(f"model.name_or_path: {base.name_or_path}: cannot be served in continuous batches: {reason}")


def choose(logits: torch.Tensor, rows: Sequence[Row]) -> tuple[list[int | None], torch.Tensor]:
    """Return the next token of each row, and all log-probabilities at temperature 1; both tables (B, V) float32.

    The next token of a row is None if its logits are not finite. The other rows continue.
    """
    log_probabilities = logits.log_softmax(1)
    tokens: list[int | None] = logits.argmax(1).tolist()
    for index, (row, finite) in enumerate(zip(rows, torch.isfinite(logits.amax(1)).tolist(), strict=True)):
        if not finite:
            tokens[index] = None
        elif row.sampling.temperature > 0:
            tokens[index] = _drawn(logits[index], row)
    return tokens, log_probabilities


def _drawn(logits: torch.Tensor, row: Row) -> int:
    """Draw a token of one row; logits (V,)."""
    if row.generator is None:
        row.generator = torch.Generator().manual_seed(row.sampling.seed)
    own = logits.double().cpu()
    shares = ((own - own.max()) / row.sampling.temperature).softmax(0)  # also correct for tiny temperatures
    if row.sampling.top_p < 1:
        ordered, order = shares.sort(descending=True)
        beyond = ordered.cumsum(0) - ordered >= row.sampling.top_p
        beyond[0] = False
        shares = shares.index_fill(0, order[beyond], 0.0)
    return int(torch.multinomial(shares, 1, generator=row.generator))
