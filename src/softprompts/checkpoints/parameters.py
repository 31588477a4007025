"""Copy trainable parameters, and frozen parts of a soft prompt, out of a model as tensors by name, and back into it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from softprompts.errors import UserError
from softprompts.models.sharding.tensors import put, whole

import torch
from torch import nn

# Largest difference between frozen values that are the same up to rounding, as a share of the norm of a row. Keys and
# values of a text differ in their last bits between machines; those of another text differ by about their size.
ROUNDING = 0.1


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


def frozen_parts(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the frozen parameters and the buffers of a model's soft prompt, by name.

    The soft prompt is computed from them too, so without them the trainable parameters mean something else.
    """
    parameters = ((name, p) for name, p in model.named_parameters() if not p.requires_grad)
    return {n: t for n, t in chain(parameters, model.named_buffers()) if n.startswith("prompt_encoder.")}


def nearly_equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Return whether tensors of the same name and shape differ by rounding at most, row by row."""
    pairs = [(torch.atleast_1d(one[n]), torch.atleast_1d(whole(other[n]))) for n in one.keys() & other.keys()]
    floats = [(a.float(), b.float().to(a.device)) for a, b in pairs if a.shape == b.shape]
    return all(((a - b).norm(dim=-1) <= ROUNDING * a.norm(dim=-1)).all() for a, b in floats)


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
