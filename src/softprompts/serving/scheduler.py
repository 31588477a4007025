"""Schedule requests: they wait in a bounded queue, one thread decodes the batch, and each request gets its tokens."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from softprompts.serving.batch import Batch, Row

LOG = logging.getLogger(__name__)

# Why an answer has ended: an end token or stop text, its length, its time limit, a client that left, or an error here.
Reason = Literal["stop", "length", "timeout", "cancelled", "error"]
T = TypeVar("T")
Parts = Generator[None, None, T]  # work that yields between two of its parts


class QueueFullError(Exception):
    """The queue has its greatest length; try again after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the queue is full; try again in {seconds:.0f} s")
        self.seconds = seconds


class ClosedError(Exception):
    """The scheduler was closed before it did this work."""


@dataclass(eq=False)
class Ticket:
    """A request and its callbacks. The decoding thread calls them.

    Args:
        make_row: called when the batch has room; it may compute keys and values.
        positions: number of positions that the request needs in the batch, with a whole answer.
        heard: called with the row after each of its tokens; returns whether the answer has ended, for example by a
            stop text. It must not block. If it raises, only this request ends.
        over: called once, with the reason why the answer has ended. It must neither block nor raise.
        deadline: time of `time.monotonic()` at which the answer ends.
    """

    make_row: Callable[[], Row]
    positions: int
    heard: Callable[[Row], bool]
    over: Callable[[Reason], None]
    deadline: float = float("inf")
    row: Row | None = None
    joined: float = 0.0
    cancelled: bool = False
    ended: bool = False  # `over` was called


@dataclass
class Counts:
    """Numbers since the start, for the metrics: tokens including end tokens, steps, and answers by reason."""

    tokens: int = 0
    steps: int = 0
    over: dict[str, int] = field(default_factory=dict)


class Scheduler:
    """Runs a batch in its own thread until it is closed.

    Args:
        batch: the rows that are decoded together.
        most_rows: greatest number of rows in the batch.
        most_positions: greatest product of rows and positions of the longest row, which limits the memory.
        most_waiting: greatest number of requests in the queue.
    """

    def __init__(self, batch: Batch, most_rows: int, most_positions: int, most_waiting: int) -> None:
        self.batch = batch
        self.most_rows, self.most_positions, self.most_waiting = most_rows, most_positions, most_waiting
        self.counts = Counts()
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, Ticket] = {}  # by the identity of their rows
        self._calls: deque[tuple[Future[Any], Parts[Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = self._draining = False
        self._between: list[Ticket] = []  # have left the queue but are not in the batch yet
        self._pace = 0.0  # seconds between two answers that end, a moving average
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Put a request into the queue.

        Raises:
            QueueFullError: the queue is full, or the scheduler is closing.
            ValueError: the request alone needs more positions than the batch has.
        """
        if ticket.positions > self.most_positions:
            raise ValueError(f"{ticket.positions} positions, but the batch has {self.most_positions}")
        with self._changed:
            if self._draining or len(self._waiting) >= self.most_waiting:
                raise QueueFullError(max(1.0, len(self._waiting) * self._pace))
            self._waiting.append(ticket)
            self._changed.notify()

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Run other work with the base model in the decoding thread, between two steps.

        Raises:
            QueueFullError: as `call_in_parts`.
        """

        def parts() -> Parts[T]:
            yield from ()
            return work()

        return self.call_in_parts(parts())

    def call_in_parts(self, parts: Parts[T], *, accepted: bool = False) -> Future[T]:
        """Run work of several parts, with a step of the batch between two of them.

        No other work begins before its last part, so only one work at a time holds memory. A work whose future is
        cancelled does not continue.

        Args:
            parts: yields after each part except the last, and returns the result.
            accepted: whether the work belongs to a request that was in the queue before, and is thus never refused
                because the queue is full.

        Raises:
            QueueFullError: too much work waits, or the scheduler is closing.
        """
        future: Future[T] = Future()
        with self._changed:
            full = self._draining or len(self._calls) >= self.most_waiting
            if self._closed or (full and not accepted):
                raise QueueFullError(max(1.0, len(self._calls) * self._pace))
            self._calls.append((future, parts))
            self._changed.notify()
        return future

    def cancel(self, ticket: Ticket) -> None:
        """Remove a request from queue or batch before the next step."""
        with self._changed:
            ticket.cancelled = True
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """Requests and other work in the queue."""
        return len(self._waiting) + len(self._calls)

    @property
    def closing(self) -> bool:
        """Whether the scheduler is closing and refuses new requests."""
        return self._draining

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def alive(self) -> bool:
        """Whether the decoding thread runs."""
        return self._thread.is_alive()

    def close(self, seconds: float) -> None:
        """Refuse new requests, finish the present ones for at most `seconds`, and cancel the rest."""
        with self._changed:
            self._draining = True
            self._changed.notify()
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.alive and (self.waiting or self._between or self._running):
            time.sleep(0.01)
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._decode()
        except Exception:
            LOG.exception("decoding has ended; restart the server")
        reason: Reason = "cancelled" if self._closed else "error"
        with self._changed:
            self._draining = self._closed = True  # new requests would get no answer
        for ticket in [*self._running.values(), *self._between, *self._waiting]:
            with suppress(Exception):  # the batch may be unusable
                self._end(ticket, reason)
        self._waiting.clear()
        for future, parts in self._calls:
            parts.close()
            if future.set_running_or_notify_cancel():
                future.set_exception(ClosedError())
        self._calls.clear()

    def _decode(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.waiting or self._running or self._closed)
                if self._closed:
                    break
                dropped = self._drop()
                admitted = self._admit()
                self._between = [*(ticket for ticket, _ in dropped), *admitted]
                call = self._calls[0] if self._calls else None  # one part per step, so that decoding continues
            for ticket, reason in dropped:
                self._end(ticket, reason)
            self._join(admitted)
            self._between = []
            self._step()
            if call and _do(*call):
                self._calls.popleft()

    def _drop(self) -> list[tuple[Ticket, Reason]]:
        """Return all requests that are cancelled or whose time is over; remove them from the queue."""
        now = time.monotonic()
        found: list[tuple[Ticket, Reason]] = []
        for ticket in [*self._waiting, *self._running.values()]:
            if ticket.cancelled or now >= ticket.deadline:
                found.append((ticket, "cancelled" if ticket.cancelled else "timeout"))
        gone = {id(ticket) for ticket, _ in found}
        self._waiting = deque(ticket for ticket in self._waiting if id(ticket) not in gone)
        return found

    def _admit(self) -> list[Ticket]:
        """Return the requests that join now, first come, first served, so that a large request does not wait for ever.

        Each row uses as much memory as the longest one, and the number of slots is a power of two.
        """
        longest = max((ticket.positions for ticket in self._running.values()), default=0)
        found: list[Ticket] = []
        while self._waiting and (rows := len(self._running) + len(found)) < self.most_rows:
            longest = max(longest, self._waiting[0].positions)
            if (1 << rows.bit_length()) * longest > self.most_positions and rows:
                break
            found.append(self._waiting.popleft())
        return found

    def _join(self, tickets: list[Ticket]) -> None:
        rows = []
        for ticket in tickets:
            try:
                ticket.row = ticket.make_row()
            except Exception:
                LOG.exception("a request could not be read")
                self._end(ticket, "error")
                continue
            self._running[id(ticket.row)] = ticket
            ticket.joined = time.monotonic()
            rows.append(ticket.row)
        if rows:
            self._advance(lambda: self.batch.join(rows), rows)

    def _step(self) -> None:
        rows = list(self.batch.rows)
        if rows:
            self.counts.steps += 1
            self._advance(self.batch.step, rows)

    def _advance(self, write: Callable[[], list[Row]], rows: list[Row]) -> None:
        """Write a token of each row, notify its request, and end the answers that are complete."""
        try:
            ended = {id(row) for row in write()}
        except Exception:
            LOG.exception("a step of the batch failed")
            inside = {id(row) for row in self.batch.rows}
            alone = not inside & {id(row) for row in rows}  # only new rows failed: their prompts could not be read
            if not alone:  # after any error, such as full memory, these rows cannot continue; waiting ones may run
                self.batch.leave(list(self.batch.rows))
            for number, ticket in list(self._running.items()):
                if not alone or number not in inside:
                    self._end(ticket, "error")
            return
        self.counts.tokens += len(rows)
        for row in rows:
            ticket = self._running[id(row)]
            try:
                stopped = ticket.heard(row)
            except Exception:
                LOG.exception("a request could not be told of its token")
                self._end(ticket, "error")
                continue
            if row.failed:
                self._end(ticket, "error")
            elif stopped or id(row) in ended:
                self._end(ticket, "length" if not stopped and len(row.written) == row.most else "stop")

    def _end(self, ticket: Ticket, reason: Reason) -> None:
        """Remove a request from the batch and notify it once, even if the batch fails."""
        if ticket.ended:
            return
        ticket.ended = True
        try:
            if ticket.row is not None:
                self._running.pop(id(ticket.row), None)
                # `most_rows` rows are answered at the same time.
                self._pace += 0.1 * ((time.monotonic() - ticket.joined) / self.most_rows - self._pace)
                self.batch.leave([ticket.row])
        finally:
            self.counts.over[reason] = self.counts.over.get(reason, 0) + 1
            try:
                ticket.over(reason)
            except Exception:
                LOG.exception("a request could not be told of its end")


def _do(future: Future[T], parts: Parts[T]) -> bool:
    """Run the next part of a work, and return whether it was the last."""
    if future.cancelled():
        parts.close()
        future.set_running_or_notify_cancel()
        return True
    try:
        next(parts)
    except StopIteration as end:
        if future.set_running_or_notify_cancel():
            future.set_result(end.value)
    except Exception as error:  # the caller gets it
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
    else:
        return False
    return True
