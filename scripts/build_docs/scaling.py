"""Estimate how training would scale over GPUs: a roofline of computation and of gathering weights."""

from __future__ import annotations

from dataclasses import dataclass

from softprompts.reports.tables import markdown_table

GPUS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Machine:
    """GPUs in nodes. Rates are FLOP/s of a GPU in bfloat16, and bytes/s into a GPU within a node and between nodes.

    A step reaches the share `share` of the matrix rate. This is an assumption, because no GPU was measured.
    """

    matrix_rate: float = 989e12  # H100 SXM, dense, its data sheet
    share: float = 0.4
    within: float = 450e9  # NVLink 4, one direction, its data sheet
    between: float = 50e9  # 400 Gbit/s for each GPU
    node: int = 8


@dataclass(frozen=True)
class Step:
    """A step: weights of the base model, bytes of each, and tokens that each GPU reads."""

    weights: float = 8e9
    bytes_each: int = 2
    tokens: int = 8192


def tokens_per_second(gpus: int, machine: Machine, step: Step, *, sharded: bool) -> float:
    """Return the tokens that all GPUs read per second.

    A token needs 2 FLOP per weight in the forward pass and 2 in the backward pass, because a frozen weight passes on
    gradients and has none itself (Kaplan et al. 2020, section 2.1, count 2 more for these). Each GPU receives the
    sharded weights of other GPUs twice per step, for the forward and for the backward pass, while it computes. A soft
    prompt's gradient is too small to count.
    """
    computing = 4 * step.weights * step.tokens / (machine.matrix_rate * machine.share)
    rate = machine.within if gpus <= machine.node else machine.between
    moving = 2 * step.weights * step.bytes_each * (gpus - 1) / gpus / rate if sharded else 0.0
    return gpus * step.tokens / max(computing, moving)


def tokens_to_hide(rate: float, machine: Machine, step: Step) -> float:
    """Return the number of tokens per GPU with which computing takes as long as moving all weights at a rate."""
    return step.bytes_each / 2 * machine.matrix_rate * machine.share / rate


def table() -> str:
    """Return tokens per second with a whole base model on each GPU, and with a sharded one in steps of two sizes."""
    machine = Machine()
    sizes = (1024, 8192)
    head = ["GPUs", "whole (DDP)", *(f"sharded (FSDP 2), {size:,} tokens per GPU" for size in sizes)]
    rows = []
    for gpus in GPUS:
        whole = tokens_per_second(gpus, machine, Step(), sharded=False)
        shared = [tokens_per_second(gpus, machine, Step(tokens=size), sharded=True) for size in sizes]
        rows.append([str(gpus), *(f"{rate:,.0f}" for rate in (whole, *shared))])
    return markdown_table(head, rows)


def hiding() -> str:
    """Return the tokens of a GPU that hide the moving of weights, within a node and between nodes, as a sentence."""
    machine = Machine()
    within, between = (tokens_to_hide(rate, machine, Step()) for rate in (machine.within, machine.between))
    return (
        f"With {within:,.0f} tokens per GPU and step within a node, and {between:,.0f} between nodes, computing takes "
        "as long as moving the weights. These numbers do not depend on the size of the model."
    )
