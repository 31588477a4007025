"""The work of each of several processes in a test of sharded layers: `sharding_cases.py NAME WORD...`."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed

CASES: dict[str, Callable[..., Any]] = {}


def case(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a function as a case; the first process prints its return value as JSON."""
    CASES[function.__name__] = function
    return function


def tuned(folder: str, method: str = "prompt") -> Any:
    """Return an engine over a base model that trains a soft prompt, LoRA, or all weights."""
    from helpers import load_tuned, method_engine
    from softprompts.engine.forward import Engine

    if method == "prompt":
        return Engine(*load_tuned(Path(folder)), packed=True)
    return method_engine(Path(folder), method)


def documents(count: int = 4) -> list[Any]:
    """Return documents of different lengths."""
    from softprompts.encoding.documents import Document

    return [Document(tuple(range(5, 9 + 3 * n)), (10 + n, 11)) for n in range(count)]


@case
def loss_and_gradient(folder: str, packed: str) -> dict[str, Any]:
    """Return loss and gradient of the same documents in all processes, as text without loss of bits."""
    engine = tuned(folder)
    engine.packed = packed == "packed"
    loss = engine(documents()).nll().mean()
    loss.backward()
    (prompt,) = (p for p in engine.parameters() if p.requires_grad)
    return {"loss": loss.item().hex(), "gradient": [x.hex() for x in prompt.grad.flatten().tolist()]}


@case
def held(folder: str) -> dict[str, Any]:
    """Return how many weights of the base model this process holds, and their total."""
    from softprompts.models.sharding.tensors import local

    base = tuned(folder).base
    within = {id(p) for layer in base.model.layers for p in layer.parameters()}
    layers = [p for p in base.parameters() if id(p) in within]
    rest = [p for p in base.parameters() if id(p) not in within]
    return {
        "here": sum(local(p).numel() for p in layers),
        "layers": sum(p.numel() for p in layers),
        "whole": all(local(p).numel() == p.numel() for p in rest),
    }


@case
def traffic(folder: str) -> dict[str, Any]:
    """Return the bytes that a step sends, by collective."""
    from softprompts.config.sections import TrainingConfig
    from softprompts.encoding.documents import EncodedTask
    from softprompts.training.state import make_candidate
    from softprompts.training.step import update

    from accelerate import Accelerator

    engine = tuned(folder)
    data: Any = EncodedTask.__new__(EncodedTask)
    training = TrainingConfig(batch_size=4, steps=2)
    candidate = make_candidate(engine, 0, data=data, training=training, seed=0, folder=Path("none"))
    accelerator = Accelerator(cpu=True)
    update(engine, [(candidate, documents())], accelerator)
    sent: dict[str, int] = {}

    def counted(name: str, own: Any, *args: Any, **kwargs: Any) -> Any:
        tensor = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), torch.empty(0))
        sent[name] = sent.get(name, 0) + tensor.numel() * tensor.element_size()
        return own(*args, **kwargs)

    kinds = ("all_gather", "all_reduce", "all_to_all", "broadcast", "gather", "reduce", "scatter", "send")
    for name in dir(distributed):
        if name.startswith(kinds) and inspect.isfunction(own := getattr(distributed, name)):
            setattr(distributed, name, partial(counted, name, own))
    update(engine, [(candidate, documents())], accelerator)
    return sent | {"prompt": sum(p.numel() * 4 for p in candidate.parameters)}


@case
def checkpoint(folder: str, output: str) -> bool:
    """Save rows that differ by process, and read them back: parameters, averages and the optimizer's state."""
    from softprompts.checkpoints.files import load_checkpoint, save_checkpoint
    from softprompts.config.sections import TrainingConfig
    from softprompts.models.sharding.tensors import local
    from softprompts.runs.record import Progress
    from softprompts.training.averaging import new_average
    from softprompts.training.optimizers import make_optimizer

    from transformers import get_scheduler

    model = tuned(folder, "full fine-tuning").model
    optimizer = make_optimizer(model, TrainingConfig())
    scheduler = get_scheduler("constant", optimizer)
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    rank = distributed.get_rank()
    for parameter in moved:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def state() -> list[torch.Tensor]:
        # In the order of the parameters: a state that was read has the order of the file.
        return [value for p in moved for _, value in sorted(optimizer.state[p].items()) if value.dim()]

    everything = [local(p) for p in model.parameters()] + state()
    average = new_average(model)
    everything += [local(value) for value in average.values()]
    for number, tensor in enumerate(everything):
        # Each process has its own values in its rows; whole tensors are equal in all processes.
        tensor.fill_(number + 1)
    for parameter in model.parameters():
        if hasattr(parameter, "device_mesh"):
            local(parameter).add_(1000 * (rank + 1))
    expected = [tensor.clone() for tensor in everything]
    save_checkpoint(
        Path(output), model=model, optimizer=optimizer, scheduler=scheduler, progress=Progress(), average=average,
        write=rank == 0,
    )  # fmt: skip
    distributed.barrier()
    for tensor in everything:
        tensor.zero_()
    load_checkpoint(Path(output), model=model, optimizer=optimizer, scheduler=scheduler, average=average)
    again = [local(p) for p in model.parameters()] + state() + [local(value) for value in average.values()]
    return all(torch.equal(one, two) for one, two in zip(expected, again, strict=True))


@case
def optimizer_refused(folder: str, name: str) -> str:
    """Return why an optimizer cannot train sharded weights."""
    from softprompts.config.sections import TrainingConfig
    from softprompts.errors import UserError
    from softprompts.training.optimizers import make_optimizer

    try:
        make_optimizer(tuned(folder, "full fine-tuning").model, TrainingConfig(optimizer=name))
    except UserError as error:
        return str(error)
    return ""


@case
def different_numbers_of_passes(folder: str) -> list[int]:
    """Return the number of passes of each process, for 1 and 4 rows, and whether the losses are correct."""
    from softprompts.models.sharding.turns import turns

    engine = tuned(folder)
    engine.eval()
    mine = documents(4) if distributed.get_rank() else documents(1)
    with torch.no_grad(), turns(engine.base, engine.device):
        losses = [engine([document]).nll().mean().item() for document in mine]
    everything: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everything, losses)
    return [len(each) for each in everything] + [int(everything[0][0] == everything[1][0])]


if __name__ == "__main__":
    from softprompts.system.streams import end_process_of_launch

    torch.set_num_threads(1)
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    said = CASES[sys.argv[1]](*sys.argv[2:])
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, said)
    print(json.dumps(everyone))
    end_process_of_launch()
