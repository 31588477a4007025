"""Context tuning, CT-KV: the keys and values of a few solved rows are a prefix, which trains on these rows.

Lu et al. (2025), "Context Tuning for In-Context Optimization".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from softprompts.config.methods import ContextConfig, CPTConfig
from softprompts.encoding.documents import Document, EncodedTask, lengths_of
from softprompts.errors import UserError
from softprompts.methods.attach import attach, set_start
from softprompts.methods.soft_prompts.prefix_tuning import keys_and_values, smallest as smallest
from softprompts.models.loading import max_positions
from softprompts.models.peft_compat import encoder_of
from softprompts.tasks.task import Task, draw_rows

import torch
from peft import PeftModel, PrefixTuningConfig
from torch import nn
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# Rows are told apart by their tokens: of two equal ones, each gives away the other's target.
Tokens = tuple[tuple[int, ...], tuple[int, ...]]


class TrainingMask(nn.Module):
    """Says which of a prefix's P positions documents see in training; in evaluation each sees all, and nobody asks.

    Leave-one-out: a document does not see its own positions. Token dropout: of the others a share is hidden, drawn
    anew for each document.
    """

    def __init__(self, positions: int, own: Mapping[Tokens, Sequence[int]], token_dropout: float) -> None:
        """Take P, the positions that come from a document itself, and the share to drop."""
        super().__init__()
        self.positions, self.own, self.token_dropout = positions, dict(own), token_dropout

    def forward(self, documents: Sequence[Document]) -> torch.Tensor:
        """Return (B, P), true for what a document sees, on the CPU: it is drawn alike for each device."""
        seen = torch.rand(len(documents), self.positions, device="cpu") >= self.token_dropout
        for row, document in zip(seen, documents, strict=True):
            row[list(self.own.get((document.prompt_ids, document.target_ids), ()))] = False
        return seen


def training_mask_of(model: PeftModel) -> TrainingMask | None:
    """Return what hides positions of a model's soft prompt in training; None if nothing does."""
    found: TrainingMask | None = getattr(encoder_of(model), "training_mask", None)
    return found


def demonstrations(task: Task, config: ContextConfig | CPTConfig, seed: int) -> Task:
    """Return the task with the demonstrations as its train split, the rows that `hard.shots` would draw.

    Raises:
        UserError: more than train has rows.
    """
    section = "cpt" if isinstance(config, CPTConfig) else "context"
    rows = draw_rows(task, config.demonstrations, seed, f"{section}.demonstrations")
    return replace(task, splits={**task.splits, "train": rows})


def add_context(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: EncodedTask, config: ContextConfig
) -> PeftModel:
    """Put a trainable prefix on a frozen base model: the keys and values of the demonstrations, float32.

    It has the tokens of each row of train as it is trained on, special tokens included, and those of the separator
    after each: P positions in all. Before training the model answers as it does after that text. Texts follow at
    position P, whatever of the prefix they do not see in an update (Lu et al. 2025, section 4).

    Args:
        base: the base model, a decoder.
        tokenizer: its tokenizer.
        data: the task, whose train split is the demonstrations.
        config: the settings.

    Raises:
        UserError: more tokens than the model has positions for, together with the longest row; layers that keep fewer
            positions, or no keys and values; what PEFT refuses.
    """
    separator = tuple(tokenizer(config.separator, add_special_tokens=False).input_ids)
    ids: list[int] = []
    own: dict[Tokens, list[int]] = {}
    for document in (example.document for example in data.train):
        more = document.prompt_ids + document.target_ids + separator
        own.setdefault((document.prompt_ids, document.target_ids), []).extend(range(len(ids), len(ids) + len(more)))
        ids += more
    check_room(base, data, len(ids), "context")
    model = attach(base, PrefixTuningConfig(num_virtual_tokens=len(ids)), section="context", seed=None)
    try:
        set_start(model, keys_and_values(base, ids), "context.demonstrations")
    except (ValueError, TypeError) as error:
        raise UserError(f"context.demonstrations: {error}") from None
    mask = TrainingMask(len(ids), own if config.leave_one_out else {}, config.token_dropout)
    encoder: Any = encoder_of(model)
    encoder.training_mask = mask.eval()
    return model


def check_room(base: PreTrainedModel, data: EncodedTask, count: int, section: str) -> None:
    """Raise `UserError` if the demonstrations, `count` tokens, and the longest row need more positions than there are.

    `section` has their number.
    """
    positions = max_positions(base)
    longest = max(length for split in (data.train, data.validation, data.test) for length in lengths_of(split))
    if positions is not None and count + longest > positions:
        raise UserError(
            f"{section}.demonstrations: {len(data.train)} make {count} virtual tokens, and the longest row has "
            f"{longest}: more than the {positions} positions of the model; take fewer, or lower task.max_length"
        )
