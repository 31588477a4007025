"""SIGINT and SIGTERM: collected, forwarded, and restored afterwards."""

from __future__ import annotations

import signal
import threading
from typing import Any

from softprompts.system.signals import collected_signals


def test_a_second_signal_of_a_kind_acts_as_before() -> None:
    before: list[int] = []
    original = signal.signal(signal.SIGTERM, lambda number, _: before.append(number))
    try:
        with collected_signals() as received:
            signal.raise_signal(signal.SIGTERM)
            assert (received, before) == ([signal.SIGTERM], [])
            signal.raise_signal(signal.SIGTERM)
            assert (received, before) == ([signal.SIGTERM], [signal.SIGTERM])
    finally:
        signal.signal(signal.SIGTERM, original)


def test_within_another_context_the_list_is_that_of_the_other() -> None:
    with collected_signals() as outer:
        with collected_signals() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert inner is outer
        assert outer == [signal.SIGTERM]


def test_a_thread_collects_nothing() -> None:
    found: list[list[int]] = []

    def run() -> None:
        with collected_signals() as received:
            found.append(received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [[]]


def test_every_signal_is_forwarded_and_the_handlers_come_back() -> None:
    handlers: list[Any] = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    forwarded: list[int] = []
    with collected_signals(forwarded.append) as received:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
    assert received == forwarded == [signal.SIGINT, signal.SIGTERM, signal.SIGINT]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
