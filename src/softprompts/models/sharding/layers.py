"""Shard the layers of a base model, and load it so that no process ever holds all of them.

Each layer is a unit of FSDP 2: its weights are gathered only for its forward and its backward pass. All modules outside
of the layers, such as the embeddings, are whole in each process, because PEFT looks up embeddings outside of the
model's own forward pass. Modules that PEFT adds are whole as well, inside and outside of the layers.

accelerate's plugin would also shard the embeddings and the whole model, and it requires an optimizer. This module reads
the plugin's settings and calls `fully_shard` itself (accelerate's guide "FSDP1 vs FSDP2").
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from softprompts.errors import UserError
from softprompts.models.peft_compat import on_building
from softprompts.models.sharding.tensors import whole

import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import parse_flag_from_env
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, share_comm_ctx
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

M_MMAP_THRESHOLD = -3  # malloc.h


def sharding_asked() -> bool:
    """Return whether this process is one of several that were launched to shard a base model."""
    several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    return several and parse_flag_from_env("ACCELERATE_USE_FSDP")


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformers model, in their order; no layer is inside another one."""
    found: list[nn.Module] = []
    within: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in within:
            found.append(module)
            within.update(module.modules())
    return found


def stacks_of(model: nn.Module) -> list[list[FSDPModule]]:
    """Return the sharded layers of a model, one list per stack of layers; empty if no layer is sharded."""
    stacks: dict[str, list[FSDPModule]] = {}
    for name, module in model.named_modules():
        if isinstance(module, FSDPModule):
            stacks.setdefault(name.rpartition(".")[0], []).append(module)
    return list(stacks.values())


def is_sharded(model: nn.Module) -> bool:
    """Return whether layers of a model are sharded."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def shard_layers(model: nn.Module, device: torch.device, *, ahead: bool) -> None:
    """Divide the layers of a model among all processes.

    Args:
        model: a transformers model; it may be on PyTorch's meta device.
        device: the device on which the processes compute.
        ahead: whether to gather a layer's weights while the previous layer computes; this needs memory for one more
            layer.

    Raises:
        UserError: transformers marks no layers of this architecture.
    """
    layers = layers_of(model)
    if not layers:
        raise UserError(
            f"FSDP: {type(model).__name__} has no layers that can be shared out; launch with "
            "configs/accelerate/multi_gpu.yaml, which keeps a whole base model in each process"
        )
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    again = FullyShardedDataParallelPlugin().reshard_after_forward
    layer: Any
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=again)
    stacks = stacks_of(model)
    share_comm_ctx([layer for stack in stacks for layer in stack])  # with separate streams each would keep its memory
    for stack in stacks:
        for number, layer in enumerate(stack):
            # By default FSDP prefetches the layer that ran before this one. It also counts passes without a gradient,
            # whose number differs between processes. A layer that names itself prefetches nothing.
            layer.set_modules_to_backward_prefetch([stack[max(number - 1, 0)] if ahead else layer])
            layer.set_modules_to_forward_prefetch(stack[number + 1 : number + 2] if ahead else [])


@contextmanager
def sharded_loading(device: torch.device) -> Iterator[dict[str, Any]]:
    """Within this context transformers loads a model in shards, if the launch requests them.

    Transformers builds the model without weights, this module shards its layers, and each process reads only its own
    rows of the layers' weights from the files. Yields further arguments of `from_pretrained`.
    """
    if not sharding_asked():
        yield {}
        return
    ahead = device.type != "cpu"  # the CPU does not send while it computes
    if device.type == "cpu":
        _give_back_freed_memory()
    with on_building(lambda model: shard_layers(model, device, ahead=ahead)) as arguments:
        yield arguments | ({} if device.type == "cpu" else {"device_map": {"": device}})


def _give_back_freed_memory() -> None:
    """Let the C library return each freed block of a mebibyte or more to the system at once; other systems do anyway.

    After the first large block is freed, glibc keeps later ones (`man 3 mallopt`, M_MMAP_THRESHOLD). The weights that a
    process has gathered and freed then stay in its memory, layer after layer.
    """
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def weights_together(model: nn.Module, keep: bool) -> dict[str, torch.Tensor] | None:
    """Return all weights of a sharded model by name, or None if it is not sharded; all processes must call this.

    A process without `keep` gets an empty dictionary.
    """
    if not is_sharded(model):
        return None
    found = {}
    for name, tensor in model.state_dict().items():
        values = whole(tensor)
        if keep:
            found[name] = values.cpu() if isinstance(tensor, DTensor) else values
    return found


def settle(model: nn.Module) -> None:
    """Move the shards of a newly loaded model into their final memory.

    FSDP pads the shards when a layer first runs. Code that keeps references to this process's rows must run after that.
    A shard may still be a part of its mapped file. A copy, layer by layer, releases the file's pages around it.
    """
    for stack in stacks_of(model):
        for layer in stack:
            layer._apply(torch.clone)
            layer.unshard()
            layer.reshard()


def without_gradient(model: nn.Module) -> Any:
    """Return a context for passes without a gradient; sharded layers must not run in inference mode before training."""
    return torch.no_grad() if is_sharded(model) else torch.inference_mode()


def alike(tensors: Iterable[torch.Tensor]) -> None:
    """Copy the first process's values of whole tensors to all processes."""
    with torch.no_grad():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def most_anywhere(number: int, device: torch.device) -> int:
    """Return the largest of the numbers that the processes have."""
    most = torch.tensor(number, device=device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most.item())
