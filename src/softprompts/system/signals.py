"""Collect SIGINT and SIGTERM, so that running work can end properly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_open: list[list[int]] = []  # lists of the contexts that collect signals now, the outer one first


@contextmanager
def collected_signals(forward: Callable[[int], object] | None = None) -> Iterator[list[int]]:
    """Within this context, collect SIGINT and SIGTERM in a list; they do not end the process.

    Each signal goes to `forward`. Without `forward`, the second signal of a kind ends the process. Inside another such
    context, the list is the other context's. In a thread, which receives no signals, the list stays empty.
    """
    if forward is None and _open:
        yield _open[-1]
        return
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        if forward is None:
            signal.signal(number, previous[signal.Signals(number)])
        else:
            forward(number)

    previous: dict[signal.Signals, Any] = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    _open.append(received)
    try:
        yield received
    finally:
        _open.remove(received)
        for number, handler in previous.items():
            signal.signal(number, handler)
