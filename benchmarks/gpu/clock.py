"""Time work on a device, whose commands run after the call that gives them has returned."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

WARM_UP = 2  # calls that are not counted: they compile kernels and reserve memory


def wait(device: torch.device) -> None:
    """Return when the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def all_seconds(step: Callable[[], object], count: int, device: torch.device) -> list[float]:
    """Return the seconds of each of `count` calls, after `WARM_UP` others."""
    times = []
    for _ in range(WARM_UP + count):
        wait(device)
        started = time.perf_counter()
        step()
        wait(device)
        times.append(time.perf_counter() - started)
    return times[WARM_UP:]


def median_seconds(step: Callable[[], object], count: int, device: torch.device) -> float:
    """Return the median seconds of a call."""
    return median(all_seconds(step, count, device))
