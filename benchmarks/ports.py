"""Choose ports for processes that connect on this machine."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress

PORTS = range(20_000, 32_000)


def free_port() -> int:
    """Return a port that is free now, and that the system gives to no other connection meanwhile.

    Ports for outgoing connections begin at 32768 on Linux. A process that tries such a port before the other process
    listens there may even connect to itself; then both wait for ever.
    """
    while True:
        with socket.socket() as place, suppress(OSError):
            place.bind(("127.0.0.1", secrets.choice(PORTS)))
            return int(place.getsockname()[1])
