"""Limits: clients that leave or are slow, full queues, late answers, connections; and the server's state."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from made_server import TEXT, Served, serving, wait_until
from softprompts.config.tools import ServeConfig
from softprompts.serving.http.server import _allow_files

import httpx
import pytest


def test_health_metrics_and_page_are_there(served: Served) -> None:
    assert served.http.get("/health").json() == {"status": "ok"}
    assert served.http.get("/ready").status_code == 200
    served.complete("one", TEXT, max_tokens=3)
    text = served.http.get("/metrics").text
    assert 'softprompts_tokens_total{kind="written",model="one"}' in text
    assert 'softprompts_requests_total{route="/v1/completions",status="200"}' in text
    page = served.http.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert served.http.get("/v1/elsewhere").json()["error"]["type"] == "not_found_error"


def test_a_client_that_leaves_takes_its_answer_with_it(tiny_model: Path, runs: Path) -> None:
    config = ServeConfig(adapters={"one": str(runs / "one")}, max_new_tokens=400)
    with serving(tiny_model, config, pause=0.02) as served:
        scheduler = served.service.scheduler
        body = {"model": "one", "prompt": TEXT, "max_tokens": 200}
        with served.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as stream:
            next(stream.iter_lines())
        wait_until(lambda: scheduler.counts.over == {"cancelled": 1})
        with pytest.raises(httpx.ReadTimeout):
            served.http.post("/v1/completions", json=body, timeout=0.3)
        wait_until(lambda: scheduler.counts.over == {"cancelled": 2})
        assert (scheduler.running, scheduler.waiting) == (0, 0)
        assert served.complete("one", TEXT, max_tokens=3)["choices"][0]["finish_reason"] == "length"


def test_a_full_queue_and_late_answers_have_their_status(tiny_model: Path, runs: Path) -> None:
    config = ServeConfig(
        adapters={"one": str(runs / "one")}, max_batch_rows=1, max_waiting=2, max_new_tokens=400, timeout=1.0
    )
    with serving(tiny_model, config, pause=0.02) as served:
        body = {"model": "one", "prompt": TEXT, "max_tokens": 200}
        late: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: late.append(served.post("/v1/completions", **body))) for _ in "ab"]
        for thread in threads:
            thread.start()
        wait_until(lambda: served.service.scheduler.running == 1 and served.service.scheduler.waiting == 1)
        full = served.post("/v1/completions", **body, n=2)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        wait_until(lambda: served.service.scheduler.waiting <= 1)  # all its answers are removed
        for thread in threads:
            thread.join()
        assert [(reply.status_code, reply.json()["error"]["code"]) for reply in late] == [(504, "timeout")] * 2
        many = served.post("/v1/completions", **body, n=3)
        assert many.status_code == 400


def heard(connection: socket.socket) -> bytes:
    """Return all bytes from a server until it ends the connection."""
    parts = []
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n"
PART = b"GET /health HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture
def hasty(tiny_model: Path, runs: Path) -> Iterator[Served]:
    """Return a server that does not wait for its clients for long."""
    config = ServeConfig(adapters={"one": str(runs / "one")}, client_timeout=0.5)
    with serving(tiny_model, config) as one:
        yield one


@pytest.mark.parametrize("sent", [b"", PART, HEAD, HEAD + b"\r\n", HEAD + b"\r\n" + b'{"model": "o'])
def test_a_request_that_does_not_come_is_not_waited_for(hasty: Served, sent: bytes) -> None:
    with hasty.connect() as connection:
        connection.sendall(sent)
        head, _, body = heard(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head
    assert json.loads(body)["error"]["code"] == "too_slow"
    assert json.loads(body)["error"]["message"] == "the request was not complete within 0.5 s"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    wait_until(lambda: len(hasty.connections) <= 1)


def test_a_request_that_drips_in_is_not_waited_for(hasty: Served) -> None:
    with hasty.connect() as connection:
        connection.settimeout(0.1)
        connection.sendall(PART + b"\r\n")  # a whole one first: the limit is each request's
        with suppress(TimeoutError):
            while b'{"status":"ok"}' not in connection.recv(65536):
                pass
        reply = b""
        with suppress(ConnectionError):
            for byte in PART * 10:
                connection.sendall(bytes([byte]))
                with suppress(TimeoutError):
                    if part := connection.recv(65536):
                        reply += part
                        break
        assert reply.startswith(b"HTTP/1.1 408 ")


def test_who_does_not_read_its_answer_is_hung_up_on(hasty: Served) -> None:
    count = 3000
    with hasty.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(count):  # of some kilobytes each: more than the buffers on the way hold
            connection.sendall(b"GET /page.js HTTP/1.1\r\nhost: a\r\n\r\n")
            if not hasty.connections:
                break
        wait_until(lambda: not hasty.connections)
    # The time counts on the server's side, because the system still sends buffered data, slowly with a small buffer.
    (answered,) = re.findall(r'requests_total\{route="/page\.js",status="200"\} (\d+)', hasty.metrics())
    assert 0 < int(answered) < count


def test_an_answer_may_take_longer_than_a_client(tiny_model: Path, runs: Path) -> None:
    config = ServeConfig(adapters={"one": str(runs / "one")}, client_timeout=0.3)
    with serving(tiny_model, config, pause=0.05) as served:
        assert served.complete("one", TEXT, max_tokens=20)["usage"]["completion_tokens"] == 20


def test_connections_are_counted(tiny_model: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softprompts.serving.http.server.SPARE", 2)
    config = ServeConfig(adapters={"one": str(runs / "one")}, max_connections=2)
    with serving(tiny_model, config) as served:
        with served.connect(), served.connect():
            wait_until(lambda: len(served.connections) == 2)
            for path, status in (("/v1/models", 429), ("/health", 200), ("/ready", 200), ("/metrics", 200)):
                reply = served.http.get(path)
                assert reply.status_code == status, path
                if status == 429:
                    assert reply.json()["error"]["code"] == "too_many_connections"
                    assert (reply.headers["retry-after"], reply.headers["connection"]) == ("1", "close")
            assert served.post("/v1/completions", model="one", prompt="a " * 5000).status_code == 429
            assert 'softprompts_requests_total{route="other",status="429"} 2.0' in served.metrics()
            with served.connect() as last, served.connect() as beyond:
                assert heard(beyond) == b"", "nothing is read of it"
                last.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                assert heard(last).startswith(b"HTTP/1.1 200")
        wait_until(lambda: len(served.connections) <= 1)
        served.http.close()
        again = httpx.get(f"{served.url}/v1/models")
        assert again.status_code == 200


@pytest.mark.parametrize(("hard", "allowed", "said"), [(100_000, 1000, False), (500, 500, True), (-1, 1000, False)])
def test_there_are_open_files_for_all_connections(
    hard: int, allowed: int, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, hard))
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: found.append(limits))
    _allow_files(1000)
    assert found == [(allowed, hard)]
    assert ("requires 1000 open files, but this process may open only 500; raise `ulimit -n`" in caplog.text) == said
    _allow_files(256)
    assert len(found) == 1


def test_much_text_is_tokenized_in_another_thread(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    prompts = served.service.prompts

    def noting(read: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (threads.append(threading.current_thread()), read(*given))[1]

    for name in ("raw_ids", "choice_ids"):
        monkeypatch.setattr(prompts, name, noting(getattr(prompts, name)))
    served.complete("one", TEXT, max_tokens=1)
    served.post("/v1/classify", model="sentiment", input=TEXT)
    assert served.post("/v1/completions", model="one", prompt="a " * 9000).status_code == 400
    many = served.post("/v1/classify", model="sentiment", input=TEXT, choices=[f"film {n}" for n in range(100)])
    assert many.status_code == 200
    loop = threads[0]
    assert [thread is loop for thread in threads] == [True, True, False, False]


def test_who_leaves_before_its_body_has_come_is_no_fault(hasty: Served) -> None:
    with hasty.connect() as connection:
        connection.sendall(HEAD + b"\r\n")
    wait_until(lambda: 'softprompts_requests_total{route="other",status="499"} 1.0' in hasty.metrics())
    assert 'status="500"' not in hasty.metrics()
