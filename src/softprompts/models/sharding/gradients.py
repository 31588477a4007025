"""Average and clip gradients if layers are sharded.

FSDP averages the gradient of a sharded weight over the processes, and each process keeps the rows that it holds. This
module averages the gradients of whole parameters, for example of a soft prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from softprompts.models.sharding.tensors import Part, local

import torch
from torch import distributed, nn


@torch.no_grad()
def exchange_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average the gradients of whole parameters over the processes; give each `Part` the gradient of its rows."""
    wholes = [p for p in parameters if not isinstance(p, Part) and p.grad is not None]
    for dtype in dict.fromkeys(p.dtype for p in wholes):
        gradients = [p.grad for p in wholes if p.dtype == dtype and p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
    for part in parameters:
        if isinstance(part, Part) and part.of.grad is not None:
            part.grad, part.of.grad = local(part.of.grad), None


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> torch.Tensor:
    """Scale gradients down to a norm of at most `most` over all parameters and rows; return the original norm."""
    shards = [p.grad for p in parameters if isinstance(p, Part) and p.grad is not None]
    if not any(isinstance(p, Part) for p in parameters):
        return nn.utils.clip_grad_norm_(parameters, most)
    squares = nn.utils.get_total_norm(shards).float() ** 2
    distributed.all_reduce(squares)
    wholes = [p.grad for p in parameters if not isinstance(p, Part) and p.grad is not None]
    norm = (squares + nn.utils.get_total_norm(wholes).float() ** 2).sqrt()
    nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm
