"""Sharded tensors: the rows that this process holds, and the whole tensor.

An engine imports this module in its own environment, so it requires neither PEFT nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


class Part(nn.Parameter):
    """The rows of a sharded parameter that this process holds, in the same memory; the optimizer updates them.

    AdamW updates each number independently, so each process needs only its own rows. `of` is the sharded parameter.
    """

    of: DTensor


def part_of(parameter: nn.Parameter) -> nn.Parameter:
    """Return the tensor that an optimizer updates: a `Part` of a sharded parameter, or else the parameter itself."""
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
    """Return all of a tensor; if it is sharded, all processes must call this."""
    detached: Any = tensor.detach()
    found: torch.Tensor = detached.full_tensor() if isinstance(tensor, DTensor) else detached
    return found


@torch.no_grad()
def put(target: torch.Tensor, values: torch.Tensor) -> None:
    """Copy the values of a whole tensor into a tensor that may be sharded; each process copies its own rows."""
    local(target).copy_(rows_of(values, target))


def rows_of(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the rows of `values` that this process holds of `like`, which has the same shape; all if it is whole."""
    like = like.of if isinstance(like, Part) else like
    if not isinstance(like, DTensor):
        return values
    # Without a source every process slices its own copy, and nothing is sent.
    return local(distribute_tensor(values.to(like.device), like.device_mesh, like.placements, src_data_rank=None))


def gathered(values: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor in an optimizer's state; `part` is the parameter that the optimizer updates."""
    if not isinstance(part, Part) or values.shape != part.shape or part.of.dim() == 0:
        return values.detach()
    like = part.of
    shape, stride = like.shape, like.stride()
    return whole(
        DTensor.from_local(values, like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride)
    )


def any_sharded(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether one of these tensors is sharded."""
    return any(isinstance(tensor, (DTensor, Part)) for tensor in tensors)
