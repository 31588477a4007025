"""The parameters that train, as tensors by name: taken out of a model and put back into it."""

from __future__ import annotations

from collections.abc import Mapping

from softprompts.errors import UserError
from softprompts.models.sharding.tensors import put, whole

import torch
from torch import nn


def trainable_tensors(model: nn.Module, keep: bool = True) -> dict[str, torch.Tensor]:
    """Return whole copies of the trainable parameters on the CPU, by name.

    Of sharded ones all processes must ask at once; those that do not `keep` them get none.
    """
    trainable = ((name, whole(p)) for name, p in model.named_parameters() if p.requires_grad)
    return {name: values.cpu().clone() for name, values in trainable if keep}


def set_trainable(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put values from `trainable_tensors` back in place.

    Raises:
        UserError: they are not of exactly the parameters that train, by name and shape.
    """
    copy_by_name(tensors, {n: p for n, p in model.named_parameters() if p.requires_grad})


def copy_by_name(tensors: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]) -> None:
    """Copy values into the parameters of the same names.

    Raises:
        UserError: they do not fit, by name and shape.
    """
    for name in sorted(parameters.keys() | tensors.keys()):
        shapes = [tuple(t[name].shape) if name in t else "missing" for t in (tensors, parameters)]
        if shapes[0] != shapes[1]:
            raise UserError(f"the checkpoint does not fit the model: {name} is {shapes[0]} there and {shapes[1]} here")
    with torch.no_grad():
        for name, value in tensors.items():
            put(parameters[name], value)
