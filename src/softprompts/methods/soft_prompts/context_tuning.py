"""Context tuning, CT-KV: the keys and values of few-shot examples are a prefix, trained on these examples.

Lu et al. (2025), "Context Tuning for In-Context Optimization".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from softprompts.config.methods import ContextConfig, CPTConfig
from softprompts.encoding.documents import Document, EncodedTask, longest_example
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

# Rows are identified by their tokens. Each of two equal rows would give away the other's target.
Tokens = tuple[tuple[int, ...], tuple[int, ...]]


class TrainingMask(nn.Module):
    """The positions, among P of a prefix, that documents attend to in training. In evaluation it is not used.

    Leave-one-out: a document does not attend to its own positions. Token dropout: a share of the others is hidden,
    drawn again for each document.
    """

    def __init__(self, positions: int, own: Mapping[Tokens, Sequence[int]], token_dropout: float) -> None:
        """Set P, the positions that come from each document itself, and the share of dropout."""
        super().__init__()
        self.positions, self.own, self.token_dropout = positions, dict(own), token_dropout

    def forward(self, documents: Sequence[Document]) -> torch.Tensor:
        """Return (B, P), true for visible positions, on the CPU, so that draws are the same for each device."""
        seen = torch.rand(len(documents), self.positions, device="cpu") >= self.token_dropout
        for row, document in zip(seen, documents, strict=True):
            row[list(self.own.get((document.prompt_ids, document.target_ids), ()))] = False
        return seen


def training_mask_of(model: PeftModel) -> TrainingMask | None:
    """Return the mask of a model's soft prompt in training; None if it has none."""
    found: TrainingMask | None = getattr(encoder_of(model), "training_mask", None)
    return found


def demonstrations(task: Task, config: ContextConfig | CPTConfig, seed: int) -> Task:
    """Return the task with the demonstrations as its train split. They are the rows that `hard.shots` would draw.

    Raises:
        UserError: train has fewer rows.
    """
    section = "cpt" if isinstance(config, CPTConfig) else "context"
    rows = draw_rows(task, config.demonstrations, seed, f"{section}.demonstrations")
    majority = Counter(row.target for row in task.splits["train"]).most_common(1)[0][0] if task.choices else None
    return replace(task, splits={**task.splits, "train": rows}, majority=majority)


def add_context(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: EncodedTask, config: ContextConfig
) -> PeftModel:
    """Add a trainable prefix to a frozen base model: the keys and values of the demonstrations, float32.

    It has the tokens of each row of train as in training, including special tokens, and of the separator after each
    row: P positions in all. Before training, the model's output is that after this text. Texts follow at position P,
    even if parts of the prefix are hidden from them in a step (Lu et al. 2025, section 4).

    Args:
        base: the base model, a decoder.
        tokenizer: its tokenizer.
        data: the task, whose train split is the demonstrations.
        config: the settings.

    Raises:
        UserError: the prefix and the longest row need more positions than the model has; layers keep fewer positions,
            or no keys and values; PEFT refuses the config.
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
    """Raise `UserError` if `count` tokens of demonstrations and the longest row exceed the model's positions.

    `section` is the section with their number.
    """
    positions = max_positions(base)
    longest, _ = longest_example(data)
    if positions is not None and count + longest > positions:
        raise UserError(
            f"{section}.demonstrations: {len(data.train)} make {count} virtual tokens, and the longest row has "
            f"{longest}: more than the model's {positions} positions; use fewer, or lower task.max_length"
        )
