"""An exponential moving average of what trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from softprompts.models.sharding.tensors import local

import torch
from torch import nn


def new_average(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return room for the averages of the trainable parameters, by name: in 32 bits at least, where they are now."""
    return {
        name: parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def add_to_average(average: Mapping[str, torch.Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Take the values after an update into their averages.

    After update n the value of update i weighs decay**(n - i), divided by the sum of all weights: the correction of
    Adam's moments (Kingma and Ba 2015, section 3). Without it, the initial values would weigh decay**n.

    Args:
        average: of `new_average`; changed in place.
        model: what trains.
        decay: of the average, from 0 to below 1.
        step: number of the update, from 1.
    """
    weight = (1 - decay) / (1 - decay**step)
    for name, parameter in model.named_parameters():
        if name in average:
            mean = local(average[name])
            mean.lerp_(local(parameter).to(mean.dtype), weight)


@contextmanager
def averaged(model: nn.Module, average: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Within this context a model has the averages as its values, if there are any."""
    if not average:
        yield
        return
    parameters = {name: p for name, p in model.named_parameters() if name in average}
    own = {name: local(p).clone() for name, p in parameters.items()}
    _set(parameters, average)
    try:
        yield
    finally:
        _set(parameters, own)


@torch.no_grad()
def _set(parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in parameters.items():
        local(parameter).copy_(local(values[name]))
