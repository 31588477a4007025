"""SIGINT and SIGTERM, collected instead of ending the process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def signals_caught(forward: Callable[[int], object] | None = None) -> Iterator[list[int]]:
    """Within this context SIGINT and SIGTERM are collected in the yielded list.

    Args:
        forward: is called with each signal. Without it only the first one is collected: a second one of the same kind
            does what it would do outside.
    """
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        if forward:
            forward(number)
        else:
            signal.signal(number, previous[signal.Signals(number)])

    previous: dict[signal.Signals, Any] = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
