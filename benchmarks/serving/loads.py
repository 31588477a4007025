"""Requests and their times of arrival. This module needs only Python, so that every way's process can import it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """A text's token ids, its task, and its number in the task."""

    task: str
    number: int
    ids: Sequence[int]


def drawn(requests: Sequence[Request], count: int, seed: int) -> list[Request]:
    """Return requests in a random order; the numbers of their repetitions differ by at most one."""
    order = random.Random(seed)
    found: list[Request] = []
    while len(found) < count:
        found += order.sample(requests, len(requests))
    return found[:count]


@dataclass
class Served:
    """A request and its answer: times in seconds since the start of the load, and tokens of the answer."""

    request: Request
    arrived: float
    first: float = 0.0
    over: float = 0.0
    tokens: list[int] = field(default_factory=list)


class Load:
    """Requests and their times of arrival.

    Args:
        requests: the requests in their order.
        rate: random arrivals per second (Poisson); None if clients send one request after another.
        clients: number of such clients.
    """

    def __init__(self, requests: Sequence[Request], *, rate: float | None = None, clients: int = 1) -> None:
        self.requests, self.rate, self.clients = list(requests), rate, clients
        self.served: list[Served] = []
        self._later = deque(self.requests)
        self._coming: deque[Served] = deque()
        if rate is None:
            for _ in range(min(clients, len(self.requests))):
                self._next(0.0)
        else:
            draw, at = random.Random(len(self.requests)), 0.0
            while self._later:
                at += draw.expovariate(rate)
                self._next(at)

    def _next(self, at: float) -> None:
        if self._later:
            self._coming.append(Served(self._later.popleft(), at))

    @property
    def complete(self) -> bool:
        """Whether every request is answered."""
        return len(self.served) == len(self.requests)

    def due(self, now: float) -> list[Served]:
        """Return the requests that have arrived since the last call."""
        found = []
        while self._coming and self._coming[0].arrived <= now:
            found.append(self._coming.popleft())
        return found

    def pause(self, now: float) -> float | None:
        """Return the seconds until the next arrival; None if it waits for an answer."""
        return max(0.0, self._coming[0].arrived - now) if self._coming else None

    def finish(self, one: Served) -> None:
        """Count an answer; without a rate, its client sends the next request."""
        self.served.append(one)
        self._next(one.over)
