"""Coordinate forward passes without a gradient if processes need different numbers of them.

All processes must gather a sharded layer at the same time. Their rows differ, and so does the number of passes: an
answer of 5 tokens needs 5. So before each pass the processes agree on the stack of layers that runs next. A process
that needs another stack, or no further pass, sends its shards and computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from softprompts.models.sharding.layers import stacks_of

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def turns(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within this context each process runs a model as often as it needs to, without a gradient; all leave it together.

    All processes must enter it. Without sharded layers it has no effect. An error in one process ends that process; the
    launcher then ends the others, as after any other error.

    Args:
        model: a model with or without sharded layers.
        device: the device on which the processes compute.
    """
    stacks = stacks_of(model)
    with ExitStack() as hooks:
        for number, stack in enumerate(stacks):
            first: Any = stack[0]
            # Before FSDP's own hook, which gathers the weights.
            handle = first.register_forward_pre_hook(partial(_wait, stacks, number, device), prepend=True)
            hooks.callback(handle.remove)
        yield
        if stacks:
            _wait(stacks, None, device)


def _wait(stacks: list[list[FSDPModule]], wanted: int | None, device: torch.device, *_: Any) -> None:
    """Join the passes of other processes until it is this process's turn; without `wanted`, until all have finished."""
    while (turn := _agreed(len(stacks), wanted, device)) != wanted:
        assert turn is not None
        for layer in stacks[turn]:
            layer.unshard()
            layer.reshard()


def _agreed(count: int, wanted: int | None, device: torch.device) -> int | None:
    """Return the first stack that any process needs to run; None if all have finished."""
    votes = torch.zeros(count, device=device)
    if wanted is not None:
        votes[wanted] = 1
    distributed.all_reduce(votes)
    return next((number for number, found in enumerate(votes.tolist()) if found), None)
