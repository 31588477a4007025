"""Time packed attention on a GPU: scaled dot-product attention with each of its kernels, and FlexAttention.

The shapes are those of 16 texts of 512 tokens after a prompt of 20 virtual tokens, in Llama 3.2 1B: the engine gives
`scaled_dot_product_attention` repeated keys and values, or `enable_gqa`, and a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.gpu.clock import median_seconds

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import repeat_kv

KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


@dataclass(frozen=True)
class Shape:
    """Sizes of an attention: texts b, virtual tokens P, tokens L of a text, query heads H, key heads G, head size D."""

    texts: int = 16
    prompt: int = 20
    length: int = 512
    heads: int = 32
    groups: int = 8
    size: int = 64
    rounds: int = 20


def attention(shape: Shape, device: torch.device) -> dict[str, Any]:
    """Return the milliseconds of a forward and backward pass for each way and kernel.

    PyTorch's own choice takes as long as the kernel that it uses, so the times show which one that is.
    """
    found: dict[str, Any] = {"shape": asdict(shape)}
    for name, repeated in (("repeated heads", True), ("enable_gqa", False)):
        step = partial(_sdpa, shape, device, repeated)
        found[name] = {"PyTorch's choice": _or_reason(step, shape.rounds, device)}
        for kernel in KERNELS:
            with sdpa_kernel([kernel]):
                found[name][kernel.name] = _or_reason(step, shape.rounds, device)
    found["FlexAttention"] = _or_reason(_flex(shape, device), shape.rounds, device)
    return found


def _or_reason(step: Callable[[], object], rounds: int, device: torch.device) -> float | str:
    """Return the milliseconds of a step, or why it cannot run."""
    try:
        return 1000 * median_seconds(step, rounds, device)
    except (RuntimeError, NotImplementedError) as error:  # for example PyTorch's "No available kernel"
        return str(error).splitlines()[0][:200]


def _tensors(shape: Shape, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries (b, H, L, D), and keys and values (b, G, P + L, D)."""
    made = partial(torch.randn, device=device, dtype=torch.bfloat16, requires_grad=True)
    both = (shape.texts, shape.groups, shape.prompt + shape.length, shape.size)
    return made((shape.texts, shape.heads, shape.length, shape.size)), made(both), made(both)


def _sdpa(shape: Shape, device: torch.device, repeated: bool) -> None:
    query, key, value = _tensors(shape, device)
    whole = shape.prompt + shape.length
    sees = torch.ones(shape.texts, 1, shape.length, whole, dtype=torch.bool, device=device).tril(shape.prompt)
    if repeated:
        key, value = (repeat_kv(x, shape.heads // shape.groups) for x in (key, value))
    scaled_dot_product_attention(query, key, value, sees, enable_gqa=not repeated).sum().backward()


def _flex(shape: Shape, device: torch.device) -> Callable[[], None]:
    whole = shape.prompt + shape.length

    def sees(_: torch.Tensor, __: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return key <= query + shape.prompt

    mask = create_block_mask(sees, None, None, shape.length, whole, device=device)
    compiled: Any = torch.compile(flex_attention) if device.type == "cuda" else flex_attention

    def step() -> None:
        query, key, value = _tensors(shape, device)
        compiled(query, key, value, block_mask=mask, enable_gqa=True).sum().backward()

    return step
