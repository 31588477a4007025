"""Requests wait, join, end and are cancelled; each gets only its own tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers import load_base
from softprompts.serving.batch import Batch, Row
from softprompts.serving.scheduler import ClosedError, Parts, QueueFullError, Reason, Scheduler, Ticket

import pytest


class Asked:
    """A request that records its callbacks."""

    def __init__(self, prompt: tuple[int, ...], most: int = 6, stop_after: int | None = None) -> None:
        self.heard: list[list[int]] = []
        self.reasons: list[Reason] = []
        self.done = threading.Event()
        self.stop_after = stop_after
        row = Row(prompt, None, most)
        self.ticket = Ticket(lambda: row, row.positions, self.hear, self.end)

    def hear(self, row: Row) -> bool:
        self.heard.append(list(row.written))
        return len(row.written) == self.stop_after

    def end(self, reason: Reason) -> None:
        self.reasons.append(reason)
        self.done.set()

    def wait(self) -> list[int]:
        assert self.done.wait(60)
        return self.heard[-1] if self.heard else []


@pytest.fixture
def make(tiny_model: Path) -> Iterator[Callable[..., Scheduler]]:
    made: list[Scheduler] = []

    def scheduler(rows: int = 4, positions: int = 1000, waiting: int = 50, paused: bool = False) -> Scheduler:
        base, _ = load_base(tiny_model)
        batch = Batch(base, ())
        if paused:
            step = batch.step
            batch.step = lambda: (time.sleep(0.05), step())[1]  # type: ignore[method-assign]
        made.append(Scheduler(batch, rows, positions, waiting))
        return made[-1]

    yield scheduler
    for one in made:
        one.close(0)


PROMPTS = [(5, 6), tuple(range(20, 33)), tuple(range(100, 140)), (7, 8, 9), (50, 51), (60,), (61, 62)]


def alone(make: Callable[..., Scheduler], prompt: tuple[int, ...], most: int = 6) -> list[int]:
    asked = Asked(prompt, most)
    make().submit(asked.ticket)
    return asked.wait()


def test_more_requests_than_places_are_all_answered_as_alone(make: Callable[..., Scheduler]) -> None:
    scheduler = make(rows=2)
    asked = [Asked(prompt) for prompt in PROMPTS]
    for one in asked:
        scheduler.submit(one.ticket)
    assert [one.wait() for one in asked] == [alone(make, prompt) for prompt in PROMPTS]
    assert [one.reasons for one in asked] == [["length"]] * len(PROMPTS)
    for one in asked:
        assert [len(tokens) for tokens in one.heard] == [1, 2, 3, 4, 5, 6], "token by token"
    assert (scheduler.running, scheduler.waiting) == (0, 0)
    assert scheduler.counts.over == {"length": len(PROMPTS)}
    assert scheduler.counts.tokens == 6 * len(PROMPTS)


def test_a_full_queue_says_when_to_come_again(make: Callable[..., Scheduler]) -> None:
    scheduler = make(rows=1, waiting=1, paused=True)
    first = Asked((1, 2), most=40)
    scheduler.submit(first.ticket)
    while not first.heard:
        time.sleep(0.001)
    second = Asked((1, 2))
    scheduler.submit(second.ticket)
    with pytest.raises(QueueFullError, match="the queue is full; try again in") as caught:
        scheduler.submit(Asked((3,)).ticket)
    assert caught.value.seconds >= 1
    scheduler.cancel(first.ticket)
    assert second.wait()
    assert first.reasons == ["cancelled"]


def test_what_does_not_fit_at_all_is_refused_and_what_fits_later_waits(make: Callable[..., Scheduler]) -> None:
    scheduler = make(positions=20)
    with pytest.raises(ValueError, match="45 positions, but the batch has 20"):
        scheduler.submit(Asked(PROMPTS[2]).ticket)
    asked = [Asked(PROMPTS[1]), Asked(PROMPTS[1])]  # 18 positions each
    most = 0
    for one in asked:
        scheduler.submit(one.ticket)
    while not all(one.done.is_set() for one in asked):
        most = max(most, scheduler.running)
    assert most <= 1
    assert asked[0].wait() == asked[1].wait()


def test_a_cancelled_or_late_request_leaves_and_others_go_on(make: Callable[..., Scheduler]) -> None:
    scheduler = make(rows=3, paused=True)
    gone, late, other = Asked((1, 2), most=400), Asked((3, 4), most=400), Asked(PROMPTS[1], most=12)
    late.ticket.deadline = time.monotonic() + 0.3
    for one in (gone, late, other):
        scheduler.submit(one.ticket)
    while len(gone.heard) < 2:
        time.sleep(0.001)
    scheduler.cancel(gone.ticket)
    assert other.wait() == alone(make, PROMPTS[1], 12)
    gone.wait()
    late.wait()
    assert (gone.reasons, late.reasons, other.reasons) == (["cancelled"], ["timeout"], ["length"])


def test_who_has_heard_enough_stops(make: Callable[..., Scheduler]) -> None:
    scheduler = make()
    asked = Asked(PROMPTS[1], most=50, stop_after=3)
    scheduler.submit(asked.ticket)
    assert asked.wait() == alone(make, PROMPTS[1])[:3]
    assert asked.reasons == ["stop"]


def test_a_fault_ends_the_requests_that_it_meets_and_no_others(make: Callable[..., Scheduler]) -> None:
    scheduler = make()
    bad, failing = Asked((1, 2)), Asked((3, 4))
    bad.ticket.make_row = lambda: (_ for _ in ()).throw(MemoryError("no room"))
    scheduler.submit(bad.ticket)
    bad.wait()
    assert bad.reasons == ["error"]
    step = scheduler.batch.step
    scheduler.batch.step = lambda: (_ for _ in ()).throw(RuntimeError("broken"))  # type: ignore[method-assign]
    scheduler.submit(failing.ticket)
    failing.wait()
    assert failing.reasons == ["error"]
    scheduler.batch.step = step  # type: ignore[method-assign]
    fine = Asked(PROMPTS[1])
    scheduler.submit(fine.ticket)
    assert fine.wait() == alone(make, PROMPTS[1])
    assert scheduler.alive


def test_who_cannot_be_told_ends_alone(make: Callable[..., Scheduler]) -> None:
    scheduler = make()
    deaf, other = Asked(PROMPTS[0]), Asked(PROMPTS[1])
    deaf.ticket.heard = lambda _: (_ for _ in ()).throw(RuntimeError("the connection is gone"))
    for one in (deaf, other):
        scheduler.submit(one.ticket)
    assert other.wait() == alone(make, PROMPTS[1])
    deaf.wait()
    assert (deaf.reasons, other.reasons, scheduler.alive) == (["error"], ["length"], True)


def test_the_time_to_come_again_follows_the_time_of_answers(make: Callable[..., Scheduler]) -> None:
    scheduler = make(rows=1, waiting=2, paused=True)
    for _ in range(2):  # some 0.3 seconds each
        asked = Asked((1, 2), most=7)
        scheduler.submit(asked.ticket)
        asked.wait()
    assert scheduler._pace > 0.05, "a share of what the answers took, and no step's time"


def test_closing_finishes_what_there_is_and_takes_no_more(make: Callable[..., Scheduler]) -> None:
    scheduler = make(rows=1)
    asked = [Asked(prompt) for prompt in PROMPTS[:3]]
    for one in asked:
        scheduler.submit(one.ticket)
    scheduler.close(60)
    assert [one.reasons for one in asked] == [["length"]] * 3
    with pytest.raises(QueueFullError):
        scheduler.submit(Asked((1,)).ticket)
    assert not scheduler.alive


def test_closing_at_once_tells_everybody(make: Callable[..., Scheduler]) -> None:
    scheduler = make(rows=1, paused=True)
    asked = [Asked(prompt, most=400) for prompt in PROMPTS[:3]]
    for one in asked:
        scheduler.submit(one.ticket)
    scheduler.close(0)
    assert [one.reasons for one in asked] == [["cancelled"]] * 3


def test_who_cannot_be_told_of_its_end_ends_no_other(make: Callable[..., Scheduler]) -> None:
    scheduler = make()
    bad, other = Asked((1, 2), most=2), Asked(PROMPTS[1])
    bad.ticket.over = lambda _: 1 / 0  # type: ignore[assignment,return-value]
    scheduler.submit(bad.ticket)
    scheduler.submit(other.ticket)
    assert len(other.wait()) == 6
    assert scheduler.alive


def test_rows_that_take_too_much_room_together_wait(make: Callable[..., Scheduler]) -> None:
    """A long row makes room for all rows as long as itself."""
    scheduler = make(rows=4, positions=100, paused=True)
    long, short = Asked(PROMPTS[2], most=10), [Asked((1, 2), most=4) for _ in range(3)]  # 49 and 5 positions
    most = 0
    for one in (long, *short):
        scheduler.submit(one.ticket)
    while not all(one.done.is_set() for one in (long, *short)):
        most = max(most, scheduler.running if not long.done.is_set() else 0)
    assert most == 2, "2 x 49 are within 100, 4 x 49 are not"


def test_a_prompt_that_cannot_be_read_ends_its_request_alone(make: Callable[..., Scheduler]) -> None:
    scheduler = make(paused=True)
    other, bad = Asked(PROMPTS[1], most=12), Asked((10**6,))  # beyond the vocabulary
    scheduler.submit(other.ticket)
    while not other.heard:
        time.sleep(0.001)
    scheduler.submit(bad.ticket)
    bad.wait()
    assert bad.reasons == ["error"]
    assert other.wait() == alone(make, PROMPTS[1], 12)
    assert other.reasons == ["length"]


def test_whoever_waits_hears_of_it_if_decoding_ends(make: Callable[..., Scheduler]) -> None:
    scheduler = make(rows=2, waiting=50, paused=True)
    gone, running, late = Asked((1, 2), most=400), Asked((3, 4), most=400), Asked((5, 6))
    for one in (gone, running):
        scheduler.submit(one.ticket)
    while not (gone.heard and running.heard):
        time.sleep(0.001)

    def fail(rows: list[Row]) -> None:
        if rows:
            raise RuntimeError("the device is gone")

    scheduler.batch.leave = fail  # type: ignore[method-assign]
    with scheduler._changed:  # the next step finds all of this at once
        scheduler.submit(late.ticket)
        work = scheduler.call(lambda: 1)
        scheduler.cancel(gone.ticket)
    for one in (gone, running, late):
        one.done.wait(30)
    assert [one.reasons for one in (gone, running, late)] == [["cancelled"], ["error"], ["error"]]
    with pytest.raises(ClosedError):
        work.result(30)
    assert not scheduler.alive


def test_only_one_work_at_a_time_is_begun(make: Callable[..., Scheduler]) -> None:
    scheduler, begun, most = make(), set[int](), list[int]()

    def parts(number: int) -> Parts[int]:
        begun.add(number)
        most.append(len(begun))
        for _ in range(3):
            yield
        begun.remove(number)
        return number

    with scheduler._changed:  # all of them wait at once
        futures = [scheduler.call_in_parts(parts(number)) for number in range(5)]
    assert [future.result(30) for future in futures] == list(range(5))
    assert most == [1] * 5


def test_a_cancelled_work_does_not_continue(make: Callable[..., Scheduler]) -> None:
    scheduler, begun, go, read = make(), threading.Event(), threading.Event(), list[int]()

    def parts() -> Parts[None]:
        begun.set()
        go.wait(30)
        yield
        read.append(1)

    future = scheduler.call_in_parts(parts())
    assert begun.wait(30)
    assert future.cancel()
    go.set()
    assert scheduler.call(lambda: 7).result(30) == 7
    assert read == []


def test_later_work_of_a_request_is_not_refused_by_a_full_queue(make: Callable[..., Scheduler]) -> None:
    scheduler = make(waiting=1)

    def parts() -> Parts[int]:
        yield
        return 1

    with scheduler._changed:
        first = scheduler.call_in_parts(parts())
        with pytest.raises(QueueFullError):
            scheduler.call_in_parts(parts())
        later = scheduler.call_in_parts(parts(), accepted=True)
    assert (first.result(30), later.result(30)) == (1, 1)
    scheduler.close(0)
    with pytest.raises(QueueFullError):
        scheduler.call_in_parts(parts(), accepted=True)
