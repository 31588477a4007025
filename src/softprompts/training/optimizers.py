"""Several optimizers as one: each for parameters of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softprompts.config.sections import TrainingConfig
from softprompts.errors import UserError
from softprompts.methods.parametrization import parameter_groups
from softprompts.models.sharding.tensors import any_sharded, part_of

import torch
from torch import nn
from torch.optim import Optimizer


class Together(Optimizer):
    """Optimizers that make their steps together, with one schedule, one loss scaler and one checkpoint.

    The parameters of one must not be those of another, and each has one group of them.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make a step of each."""
        # Handed over at every step: to load a state replaces both, and what the schedule changes is in the groups.
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            part.step(closure)


def make_optimizer(model: Any, training: TrainingConfig) -> Optimizer:
    """Return the optimizer over the trainable parameters, each at the rate that its method gives it.

    Raises:
        UserError: no parameter requires a gradient; an optimizer that needs whole weights, and these are sharded.
    """
    groups = parameter_groups(model, training.learning_rate)
    if not groups:
        raise UserError("nothing to train: no parameter requires a gradient")
    if training.optimizer != "adamw" and any_sharded(p for group in groups for p in group["params"]):
        raise UserError(
            f"training.optimizer: {training.optimizer} computes with whole matrices, and FSDP leaves each process some "
            "rows of those that train; take adamw"
        )
    for group in groups:
        group["params"] = [part_of(p) for p in group["params"]]
    if training.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=training.learning_rate, weight_decay=training.weight_decay)
    if training.optimizer == "muon":
        embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
        return muon(groups, training.weight_decay, [getattr(module, "weight", None) for module in embeddings])
    # Fused: full fine-tuning moves 135 million numbers, one kernel after another takes five times as long.
    return torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)


def muon(groups: Sequence[dict[str, Any]], weight_decay: float, tables: Sequence[Any]) -> Optimizer:
    """Return Muon (Jordan et al. 2024) for parameters of two dimensions, and AdamW for all others.

    Muon makes the momentum's singular values about equal. Its updates are scaled to the size of AdamW's, so that one
    learning rate serves both (Liu et al. 2025, section 2.2).

    Args:
        groups: what trains, as `parameter_groups` returns it: parameters and their peak learning rate.
        weight_decay: decoupled, of both.
        tables: the base model's input and output embeddings, which AdamW is better for (Jordan et al. 2024).
    """
    parts: list[Optimizer] = []
    for group in groups:
        found: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for parameter in group["params"]:
            found[parameter.dim() == 2 and not any(parameter is table for table in tables)].append(parameter)
        others, matrices = found
        if matrices:
            parts.append(
                torch.optim.Muon(matrices, lr=group["lr"], weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        if others:
            parts.append(torch.optim.AdamW(others, lr=group["lr"], weight_decay=weight_decay, fused=True))
    return Together(parts)
