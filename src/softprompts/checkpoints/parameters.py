"""Copy trainable parameters out of a model as tensors by name, and back into it."""

from __future__ import annotations

from collections.abc import Mapping

from softprompts.errors import UserError
from softprompts.models.sharding.tensors import put, whole

import torch
from torch import nn


def trainable_tensors(model: nn.Module, keep: bool = True) -> dict[str, torch.Tensor]:
    """Return whole copies of the trainable parameters on the CPU, by name.

    If parameters are sharded, all processes must call this. A process without `keep` gets an empty dictionary.
    """
    trainable = ((name, whole(p)) for name, p in model.named_parameters() if p.requires_grad)
    return {name: values.cpu().clone() for name, values in trainable if keep}


def set_trainable(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy values from `trainable_tensors` into a model.

    Raises:
        UserError: their names and shapes are not exactly those of the trainable parameters.
    """
    copy_by_name(tensors, {n: p for n, p in model.named_parameters() if p.requires_grad})


def copy_by_name(tensors: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]) -> None:
    """Copy values into the parameters of the same names.

    Raises:
        UserError: names or shapes differ.
    """
    for name in sorted(parameters.keys() | tensors.keys()):
        shapes = [tuple(t[name].shape) if name in t else "missing" for t in (tensors, parameters)]
        if shapes[0] != shapes[1]:
            raise UserError(f"the checkpoint does not fit the model: {name} is {shapes[0]} there and {shapes[1]} here")
    with torch.no_grad():
        for name, value in tensors.items():
            put(parameters[name], value)
