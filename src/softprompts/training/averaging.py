"""An exponential moving average of the trainable parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from softprompts.models.sharding.tensors import local

import torch
from torch import nn


def new_average(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the trainable parameters by name, in at least 32 bits, as a start for their averages."""
    return {
        name: parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def add_to_average(average: Mapping[str, torch.Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Add the values after a step to their averages.

    After step n the values of step i have the weight decay**(n - i), divided by the sum of all weights. Adam's moments
    have the same correction (Kingma and Ba 2015, section 3). Without it, the initial values would have the weight
    decay**n.

    Args:
        average: averages from `new_average`; they change in place.
        model: model with the trainable parameters.
        decay: decay of the average, from 0 to below 1.
        step: number of the step, from 1.
    """
    weight = (1 - decay) / (1 - decay**step)
    for name, parameter in model.named_parameters():
        if name in average:
            mean = local(average[name])
            mean.lerp_(local(parameter).to(mean.dtype), weight)


@contextmanager
def averaged(model: nn.Module, average: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Within this context the averages, if there are any, replace a model's values."""
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
