"""Forward passes without a gradient, of which each process makes as many as its own rows need.

All processes put a sharded layer together at once. Their rows differ, and with them the number of passes: an answer of
5 tokens takes 5. So before each pass the processes agree on the stack of layers that runs next. Those that need another
one, or none any more, send their shards and compute nothing.
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
    """Within this context processes run a model as often as each needs to, without a gradient; it ends for all at once.

    All processes have to enter it. Without sharded layers it does nothing. An error of one process is raised there and
    ends that process; the launcher then ends the others, as after any other error.

    Args:
        model: with sharded layers, or without.
        device: where the processes compute.
    """
    stacks = stacks_of(model)
    with ExitStack() as hooks:
        for number, stack in enumerate(stacks):
            first: Any = stack[0]
            # In front of FSDP's own hook, which asks for the weights.
            handle = first.register_forward_pre_hook(partial(_wait, stacks, number, device), prepend=True)
            hooks.callback(handle.remove)
        yield
        if stacks:
            _wait(stacks, None, device)


def _wait(stacks: list[list[FSDPModule]], wanted: int | None, device: torch.device, *_: Any) -> None:
    """Take part in the passes of others until it is this process's turn, or nobody's any more if it wants none."""
    while (turn := _agreed(len(stacks), wanted, device)) != wanted:
        assert turn is not None
        for layer in stacks[turn]:
            layer.unshard()
            layer.reshard()


def _agreed(count: int, wanted: int | None, device: torch.device) -> int | None:
    """Return the first stack that any process wants to run; None if no process wants one."""
    votes = torch.zeros(count, device=device)
    if wanted is not None:
        votes[wanted] = 1
    distributed.all_reduce(votes)
    return next((number for number, found in enumerate(votes.tolist()) if found), None)
