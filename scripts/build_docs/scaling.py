"""How training would scale over GPUs, on paper: a roofline of computing and of putting weights together."""

from __future__ import annotations

from dataclasses import dataclass

from softprompts.reports.tables import markdown_table

GPUS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Machine:
    """GPUs in nodes. Rates are FLOP/s of a GPU in bfloat16, and bytes/s into a GPU within a node and between nodes.

    `share` of the matrix rate is what a step reaches; it is assumed, as long as no GPU was measured.
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
    """Return the tokens that all GPUs read in a second.

    A token takes 2 FLOP a weight forward and 2 backward: a frozen weight passes gradients on and gets none (Kaplan et
    al. 2020, section 2.1, count 2 more for those). Sharded weights cross twice a step, for the forward and for the
    backward pass, all but the share that a GPU has; they do while others compute. A soft prompt's gradient is too small
    to count.
    """
    computing = 4 * step.weights * step.tokens / (machine.matrix_rate * machine.share)
    rate = machine.within if gpus <= machine.node else machine.between
    moving = 2 * step.weights * step.bytes_each * (gpus - 1) / gpus / rate if sharded else 0.0
    return gpus * step.tokens / max(computing, moving)


def tokens_to_hide(rate: float, machine: Machine, step: Step) -> float:
    """Return the tokens of a GPU from which on computing takes as long as moving all weights at a rate."""
    return step.bytes_each / 2 * machine.matrix_rate * machine.share / rate


def table() -> str:
    """Return tokens per second with a whole base model on each GPU, and with a sharded one in steps of two sizes."""
    machine = Machine()
    sizes = (1024, 8192)
    head = ["GPUs", "whole (DDP)", *(f"sharded (FSDP 2), {size:,} tokens a GPU" for size in sizes)]
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
