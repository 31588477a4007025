"""Make the optimizer of a training; it may combine several optimizers, each for separate parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from softprompts.config.sections import TrainingConfig
from softprompts.errors import UserError
from softprompts.methods.parametrization import parameter_groups
from softprompts.models.sharding.tensors import any_sharded, part_of

import torch
from torch import nn
from torch.optim import Optimizer

# The first line has the names of biases and norms, as `Trainer.get_decay_parameter_names` has them. Then come factors
# of IA3, magnitudes of DoRA, factors of multitask prompt tuning, and those of this package's parametrisations.
UNDECAYED = re.compile(
    r"bias|layernorm|rmsnorm|(?:^|[._])norm(?:$|\.)|"
    r"\.ia3_l\.|\.lora_magnitude_vector\.|\.prefix_task_(?:cols|rows)$|"
    r"\.parametrizations\.weight\.0\.(?:factors|scale|mixture)$"
)


class Together(Optimizer):
    """Optimizers that step together, with one schedule, one loss scaler and one checkpoint.

    Each has one parameter group, and no two optimizers share a parameter.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one step with each optimizer."""
        # Assigned again at every step: loading a state replaces both, and the schedule changes the groups.
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            part.step(closure)


def make_optimizer(model: Any, training: TrainingConfig) -> Optimizer:
    """Return the optimizer of the trainable parameters, each with the learning rate that its method sets.

    Raises:
        UserError: no parameter requires a gradient; the optimizer requires whole weights, but they are sharded.
    """
    # Without weight decay, one group: checkpoints of such trainings have it.
    groups = parameter_groups(model, training.learning_rate, undecayed(model) if training.weight_decay else ())
    if not groups:
        raise UserError("nothing to train: no parameter requires a gradient")
    if training.optimizer != "adamw" and any_sharded(p for group in groups for p in group["params"]):
        raise UserError(
            f"training.optimizer: {training.optimizer} computes with whole matrices, but FSDP divides the rows of "
            "trainable matrices among processes; use adamw"
        )
    for group in groups:
        group["params"] = [part_of(p) for p in group["params"]]
    if training.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=training.learning_rate, weight_decay=training.weight_decay)
    if training.optimizer == "muon":
        embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
        return muon(groups, training.weight_decay, [getattr(module, "weight", None) for module in embeddings])
    # Fused: for the 135 million numbers of full fine-tuning, separate kernels are five times as slow.
    return torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)


def undecayed(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that weight decay leaves out.

    They are biases and the gains of norms, as in the Trainer of transformers, and parameters that change nothing if
    they are one or the identity: weight decay would pull them to zero.
    """
    norms = {p for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    return norms | {p for name, p in model.named_parameters() if UNDECAYED.search(name.lower())}


def muon(groups: Sequence[dict[str, Any]], weight_decay: float, tables: Sequence[Any]) -> Optimizer:
    """Return Muon (Jordan et al. 2024) for parameters of two dimensions, and AdamW for all others.

    Muon makes the momentum's singular values about equal. Its updates are scaled to the size of AdamW's, so that one
    learning rate serves both (Liu et al. 2025, section 2.2).

    Args:
        groups: the trainable parameters and their peak learning rates, as `parameter_groups` returns them.
        weight_decay: decoupled weight decay of both optimizers, for groups without one of their own.
        tables: the base model's input and output embeddings, for which AdamW is better (Jordan et al. 2024).
    """
    parts: list[Optimizer] = []
    for group in groups:
        decay = group.get("weight_decay", weight_decay)
        found: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for parameter in group["params"]:
            found[parameter.dim() == 2 and not any(parameter is table for table in tables)].append(parameter)
        others, matrices = found
        if matrices:
            parts.append(torch.optim.Muon(matrices, lr=group["lr"], weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
        if others:
            parts.append(torch.optim.AdamW(others, lr=group["lr"], weight_decay=decay, fused=True))
    return Together(parts)
