"""Tensors of which each process holds some rows: the part that is here, and the whole.

An engine imports this module in an environment of its own: it needs neither PEFT nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


class Part(nn.Parameter):
    """The rows of a sharded parameter that this process holds, in the same memory: an optimizer moves these.

    AdamW works number by number, so that each process needs its own rows alone. `of` is the sharded parameter.
    """

    of: DTensor


def part_of(parameter: nn.Parameter) -> nn.Parameter:
    """Return what an optimizer moves of a parameter: a `Part` of a sharded one, and any other as it is."""
    if not isinstance(parameter, DTensor):
        return parameter
    part = Part(local(parameter))
    part.of = parameter
    return part


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the rows of a tensor that this process holds, without a gradient and in the same memory."""
    detached: Any = tensor.detach()
    found: torch.Tensor = detached.to_local() if isinstance(tensor, DTensor) else detached
    return found


@torch.no_grad()
def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor; of a sharded one all processes must ask at once."""
    detached: Any = tensor.detach()
    found: torch.Tensor = detached.full_tensor() if isinstance(tensor, DTensor) else detached
    return found


@torch.no_grad()
def put(target: torch.Tensor, values: torch.Tensor) -> None:
    """Copy the values of a whole tensor into another, of which each process takes its own rows."""
    local(target).copy_(rows_of(values, target))


def rows_of(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the rows of a whole tensor that this process holds of another of the same shape; all, if it is whole."""
    like = like.of if isinstance(like, Part) else like
    if not isinstance(like, DTensor):
        return values
    # Without a source every process cuts out of its own copy: nothing is sent.
    return local(distribute_tensor(values.to(like.device), like.device_mesh, like.placements, src_data_rank=None))


def gathered(values: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return the whole of what an optimizer keeps of a parameter; `part` is what it moves of that."""
    if not isinstance(part, Part) or values.shape != part.shape or part.of.dim() == 0:
        return values.detach()
    like = part.of
    shape, stride = like.shape, like.stride()
    return whole(
        DTensor.from_local(values, like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride)
    )


def any_sharded(tensors: Iterable[torch.Tensor]) -> bool:
    """Say whether a process holds some rows only of one of these tensors."""
    return any(isinstance(tensor, (DTensor, Part)) for tensor in tensors)
