"""A running server of the tiny model, started like a user's, for tests over HTTP."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import by_hand, load_base, load_tuned
from softprompts.config.tools import ServeConfig
from softprompts.engine.forward import Engine
from softprompts.serving.http.server import Server, make_server
from softprompts.serving.http.service import load_tasks

import httpx

TEXT = "the film was good"
SETTINGS = {
    "recipe": "prompt_tuning",
    "task": {
        "prompt": "{text}\nSentiment:",
        "target": " {label}",
        "choices": [" good", " bad", " very bad"],
    },
    "evaluation": {"stop": [], "max_new_tokens": 5},
}


def make_run(tiny_model: Path, folder: Path, seed: int, settings: dict[str, Any] | None = None) -> Path:
    """Write a run's folder: an adapter whose values a seed draws, and the settings that trained it, if any."""
    model, _ = load_tuned(tiny_model, 5, seed)
    model.save_pretrained(str(folder / "adapter"))
    if settings:
        (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def make_runs(tiny_model: Path, folder: Path) -> Path:
    """Write three runs: `one` and `two` without settings, and `sentiment`."""
    make_run(tiny_model, folder / "one", 0)
    make_run(tiny_model, folder / "two", 1)
    make_run(tiny_model, folder / "sentiment", 2, SETTINGS)
    return folder


class Served:
    """A running server."""

    def __init__(self, port: int, server: Server) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.service: Any = server.service
        self.connections = server.server_state.connections
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def post(self, route: str, /, **body: Any) -> httpx.Response:
        return self.http.post(route, json=body)

    def complete(self, model: str, prompt: Any, **more: Any) -> dict[str, Any]:
        reply = self.post("/v1/completions", model=model, prompt=prompt, **more)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def streamed(self, route: str, **body: Any) -> list[dict[str, Any]]:
        """Return the events of a stream, without its end."""
        with self.http.stream("POST", route, json=body | {"stream": True}) as reply:
            lines = list(reply.iter_lines())
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2] if line]

    def connect(self) -> socket.socket:
        """Return a connection to which a test writes single bytes."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def metrics(self) -> str:
        return self.http.get("/metrics").text


@contextmanager
def serving(tiny_model: Path, config: ServeConfig, pause: float = 0.0) -> Iterator[Served]:
    """Run a server whose steps each take at least `pause` seconds."""
    server = make_server(load_tasks(*load_base(tiny_model), config), config)
    server.config.timeout_graceful_shutdown = 1
    batch = server.service.scheduler.batch
    if pause:
        step = batch.step
        batch.step = lambda: (time.sleep(pause), step())[1]  # type: ignore[method-assign]
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    served = Served(listening.getsockname()[1], server)
    try:
        yield served
    finally:
        served.http.close()
        server.should_exit = True
        thread.join()


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def expected(tiny_model: Path, seed: int | None, text: str, most: int) -> str:
    """Return stock PEFT's output, with the adapter that `make_run` draws by a seed, or with the base model alone."""
    model, tokenizer = load_base(tiny_model) if seed is None else load_tuned(tiny_model, 5, seed)
    return str(by_hand(Engine(model, tokenizer), tuple(tokenizer(text).input_ids), most))
