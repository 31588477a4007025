"""Time packed attention on a GPU: with repeated keys and values, and with `enable_gqa` and a mask.

    python -m benchmarks.throughput.gpu_attention        (or `make bench-gpu`)

It prints for both: the kernel of PyTorch, the median milliseconds of a forward and backward pass, and the peak memory.
It has not been run yet, because no GPU was available. No number in this project comes from it.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import repeat_kv

ROUNDS = 20
TEXTS, PROMPT, LENGTH, HEADS, GROUPS, SIZE = 16, 20, 512, 32, 8, 64  # Llama 3.2 1B, 16 texts of 512 tokens
KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries (b, H, L, D), keys and values (b, G, P + L, D), and the mask (b, 1, L, P + L)."""
    query = torch.randn(TEXTS, HEADS, LENGTH, SIZE, device="cuda", dtype=torch.bfloat16)
    key, value = (torch.randn(TEXTS, GROUPS, PROMPT + LENGTH, SIZE, device="cuda", dtype=query.dtype) for _ in range(2))
    sees = torch.ones(TEXTS, 1, LENGTH, PROMPT + LENGTH, dtype=torch.bool, device="cuda").tril(PROMPT)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_(), sees


def attend(repeated: bool) -> None:
    """Make one forward and backward pass."""
    query, key, value, sees = tensors()
    if repeated:
        key, value = (repeat_kv(x, HEADS // GROUPS) for x in (key, value))
    scaled_dot_product_attention(query, key, value, sees, enable_gqa=not repeated).sum().backward()


def kernel_of(step: Callable[[], None]) -> str:
    """Return the first kernel, fastest first, that supports the computation."""
    for kernel in KERNELS:
        try:
            with sdpa_kernel([kernel]):
                step()
            return str(kernel.name)
        except RuntimeError:  # PyTorch's "No available kernel"
            continue
    return "none"


def milliseconds(step: Callable[[], None]) -> float:
    """Return the median time of a step."""
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def main() -> int:
    """Print a line for each of the two; return the exit code."""
    if not torch.cuda.is_available():
        print("error: no CUDA device", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name, repeated in (("repeated heads", True), ("enable_gqa", False)):

        def step(repeated: bool = repeated) -> None:
            attend(repeated)

        kernel = kernel_of(step)
        torch.cuda.reset_peak_memory_stats()
        median = milliseconds(step)
        print(f"{name:16} {kernel:20} {median:8.2f} ms {torch.cuda.max_memory_allocated() / 2**20:8.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
