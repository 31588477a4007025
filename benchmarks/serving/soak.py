"""Test the server's stability: a thousand requests at once, then a steady mix, with every reply compared.

    python -m benchmarks.serving.soak [--minutes 20] [--model FOLDER] [--record FILE]

It starts `recipes/serve.py` like a user, with eight tasks. First each task answers each text alone; these are the
expected replies. Then 1,000 requests arrive at once, followed by a steady mix of all routes for some minutes, streamed
and whole. Three of ten clients leave at a random moment, and adapters are added and removed meanwhile. A client with
status 429 or 504 tries again.

At the end every request must have the expected reply, no status may be 500, the memory must be stable, and the server
must end with code 0. The record is always written. The exit code is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.workload import TASKS, loaded, rows_of, save_adapters
from softprompts.runs.environment import environment
from softprompts.system.files import write_atomically

import httpx
import psutil

RECORD = Path("results/soak.json")
WORK = Path("runs/soak")
BURST = 1000
STEADY = 24  # clients of the steady mix
TEXTS = 4  # of each task
LEAVING = 0.3  # share of the clients that leave before they have a reply
ANSWER = 16  # tokens
CHOICES = [" positive", " negative", " neutral"]
GIVES_UP = 600.0  # seconds after which a request counts as lost
# Statuses after which a client tries again: the queue is full; the answer was not ready in time.
SAID = {429, 504}


@dataclass(frozen=True)
class Asked:
    """A request: its route, its body without `stream`, and whether it is streamed."""

    route: str
    body: dict[str, Any]
    stream: bool

    @property
    def key(self) -> str:
        """The parts that determine the reply."""
        return json.dumps([self.route, self.body])


@dataclass
class Found:
    """The outcomes of all requests."""

    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)  # seconds, MiB

    def note(self, kind: str, example: str = "") -> None:
        """Count an outcome, and keep some examples of errors."""
        self.kinds[kind] += 1
        if example and len(self.examples) < 20:
            self.examples.append(f"{kind}: {example[:500]}")


class Soak:
    """Clients of one server."""

    def __init__(self, client: httpx.AsyncClient, texts: dict[str, list[str]]) -> None:
        self.client, self.texts, self.found = client, texts, Found()
        self.alone: dict[str, str] = {}
        self.draw = random.Random(0)

    def any_request(self) -> Asked:
        """Draw a task, one of its texts and a route."""
        task = self.draw.choice(list(self.texts))
        return self.draw.choice(requests_for(task, self.draw.choice(self.texts[task])))

    async def learn(self) -> None:
        """Record the reply to every request when it is alone."""
        for task, texts in self.texts.items():
            for text in texts:
                for asked in requests_for(task, text)[::2]:  # each route, not streamed
                    status, reply = await self.ask(asked)
                    if status != 200:
                        sys.exit(f"{asked.route} for {task} alone: status {status}: {reply}")
                    self.alone[asked.key] = reply

    async def ask(self, asked: Asked) -> tuple[int, str]:
        """Send a request once; return the status, and the reply as one text."""
        body = asked.body | ({"stream": True} if asked.stream else {})
        async with self.client.stream("POST", asked.route, json=body) as reply:
            if reply.status_code != 200 or not asked.stream:
                return reply.status_code, said(json.loads(await reply.aread()))
            parts = []
            ended = False
            async for line in reply.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if (event.get("error") or {}).get("code") == "timeout":
                        return 504, said(event)  # the status was sent before the time was over
                    parts.append(said(event))
            return 200 if ended else 0, "".join(parts)

    async def one(self) -> None:
        """Send a request until it is answered, or leave at a random moment."""
        asked = self.any_request()
        if self.draw.random() < LEAVING:
            with suppress(TimeoutError, httpx.TransportError):
                await asyncio.wait_for(self.ask(asked), self.draw.random() * 2)
            self.found.note("left")
            return
        try:
            async with asyncio.timeout(GIVES_UP):
                await self._until_answered(asked)
        except (TimeoutError, httpx.TransportError, ValueError) as error:
            self.found.note("lost", f"{type(error).__name__} {error} {asked.key}")

    async def _until_answered(self, asked: Asked) -> None:
        while True:
            status, reply = await self.ask(asked)
            self.found.statuses[f"{asked.route} {status}"] += 1
            if status in SAID:
                await asyncio.sleep(1 + 2 * self.draw.random())
                continue
            if status != 200:
                self.found.note("failed", f"{status} {reply} {asked.key}")
            elif reply == self.alone[asked.key]:
                self.found.note("right")
            else:
                others = [key for key, other in self.alone.items() if other == reply and same_text(key, asked.key)]
                self.found.note("crossed" if others else "different", f"{asked.key}: {reply!r}")
            return

    async def burst(self) -> None:
        """Send many requests at once."""
        await asyncio.gather(*(self.one() for _ in range(BURST)))

    async def steady(self, until: float) -> None:
        """Send requests until a time."""

        async def client() -> None:
            while time.monotonic() < until:
                await self.one()

        await asyncio.gather(*(client() for _ in range(STEADY)))

    async def come_and_go(self, until: float) -> None:
        """Add an adapter, use it and remove it, repeatedly until a time."""
        number = 0
        while time.monotonic() < until:
            number += 1
            task = self.draw.choice(list(TASKS))
            name = f"guest-{number}"
            calls: tuple[tuple[str, str, dict[str, Any] | None], ...] = (
                ("POST", "/v1/adapters", {"name": name, "path": task}),
                ("POST", "/v1/completions", {"model": name, "prompt": self.texts[task][0], "max_tokens": ANSWER}),
                ("DELETE", f"/v1/adapters/{name}", None),
                ("POST", "/v1/completions", {"model": name, "prompt": "Gone?", "max_tokens": 1}),
                ("GET", "/v1/models", None),
                ("GET", "/metrics", None),
            )
            for (method, route, body), expected in zip(calls, (201, 200, 200, 404, 200, 200), strict=True):
                await self._call(method, route, body, expected)
            await asyncio.sleep(1)

    async def _call(self, method: str, route: str, body: dict[str, Any] | None, expected: int) -> None:
        for _ in range(200):
            reply = await self.client.request(method, route, json=body)
            label = route.rpartition("/")[0] if method == "DELETE" else route
            self.found.statuses[f"{method} {label} {reply.status_code}"] += 1
            if reply.status_code not in SAID:
                break
            await asyncio.sleep(1)
        if reply.status_code != expected:
            self.found.note("failed", f"{method} {route}: {reply.status_code}, expected {expected}: {reply.text}")

    async def watch(self, process: psutil.Process, until: float) -> None:
        """Note the server's resident memory every two seconds."""
        start = time.monotonic()
        while time.monotonic() < until:
            self.found.memory.append((time.monotonic() - start, process.memory_info().rss / 2**20))
            await asyncio.sleep(2)


def requests_for(task: str, text: str) -> list[Asked]:
    """Return the requests for a text: each route whole, then streamed if the route supports it."""
    completion = {"model": task, "prompt": text, "max_tokens": ANSWER}
    classify = Asked("/v1/classify", {"model": task, "input": text, "choices": CHOICES}, stream=False)
    found = [Asked("/v1/completions", completion, stream) for stream in (False, True)]
    chat = {"model": task, "messages": [{"role": "user", "content": text}], "max_tokens": ANSWER}
    found += [Asked("/v1/chat/completions", chat, stream) for stream in (False, True)]
    return [*found, classify]


def said(body: dict[str, Any]) -> str:
    """Return the text of a reply, or of a part of a stream."""
    if "error" in body:
        return json.dumps(body["error"])
    if "data" in body:
        return ",".join(row["label"] for row in body["data"])
    choice = body["choices"][0]
    if "text" in choice:
        return str(choice["text"])
    return str((choice.get("message") or choice["delta"]).get("content") or "")


def same_text(key: str, other: str) -> bool:
    """Return whether two requests differ at most in the task."""
    (route, body), (other_route, other_body) = json.loads(key), json.loads(other)
    return bool(route == other_route and {**body, "model": ""} == {**other_body, "model": ""})


def slope(points: list[tuple[float, float]]) -> float:
    """Return the slope of a line through points, least squares."""
    count = len(points)
    x, y = sum(a for a, _ in points) / count, sum(b for _, b in points) / count
    spread = sum((a - x) ** 2 for a, _ in points)
    return sum((a - x) * (b - y) for a, b in points) / spread if spread else 0.0


def start_server(model: str | None, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the recipe like a user, and wait until it accepts requests."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "recipes/serve.py", "--serve.folder", str(folder), "--serve.port", str(port)]
    command += ["--model.dtype", "float32"] + (["--model.name_or_path", model] if model else [])
    with (WORK / "server.log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{address}/ready").status_code == 200:
                return process, address
        time.sleep(0.2)
    sys.exit("the server did not start; see runs/soak/server.log.txt")


async def soak(process: psutil.Process, address: str, seconds: float) -> Soak:
    """Run all clients; return their results."""
    texts = {name: [row.prompt[:80] for row in rows_of(task).splits["test"][:TEXTS]] for name, task in TASKS.items()}
    # All clients share a pool of connections, without a time limit except `GIVES_UP`.
    async with httpx.AsyncClient(base_url=address, timeout=None, limits=httpx.Limits(max_connections=None)) as client:
        made = Soak(client, texts)
        await made.learn()
        print(f"{len(made.alone)} replies alone", flush=True)
        await made.burst()
        print(f"{BURST} at once: {dict(made.found.kinds)}", flush=True)
        until = time.monotonic() + seconds
        await asyncio.gather(made.steady(until), made.come_and_go(until), made.watch(process, until))
        for _ in range(100):
            metrics = (await client.get("/metrics")).text
            if "\nsoftprompts_running 0.0" in metrics and "\nsoftprompts_waiting 0.0" in metrics:
                break
            await asyncio.sleep(0.2)
        else:
            made.found.note("failed", "rows or requests are left in the server")
    return made


def in_numbers(found: Found, minutes: float, code: int, log: str) -> dict[str, Any]:
    """Return the record of the results."""
    kinds = {kind: found.kinds[kind] for kind in ("right", "left", "lost", "crossed", "different", "failed")}
    late = found.memory[len(found.memory) // 2 :]
    memory = {"first_mib": found.memory[0][1], "last_mib": late[-1][1], "most_mib": max(m for _, m in found.memory)}
    memory["slope_mib_a_minute"] = 60 * slope(late)  # of the second half
    return {
        "environment": environment(),
        "settings": {
            "burst": BURST,
            "clients": STEADY,
            "minutes": minutes,
            "leaving": LEAVING,
            "answer_tokens": ANSWER,
        },
        "requests": kinds,
        "statuses": dict(sorted(found.statuses.items())),
        "memory": {name: round(value, 3) for name, value in memory.items()},
        "tracebacks": log.count("Traceback"),
        "exit_code": code,
        "examples": found.examples,
    }


def main() -> int:
    """Test a server and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="duration of the steady mix")
    parser.add_argument("--model", help="folder of a base model, instead of the bundled one")
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    save_adapters(*loaded(options.model), WORK / "adapters")
    process, address = start_server(options.model, WORK / "adapters")
    try:
        made = asyncio.run(soak(psutil.Process(process.pid), address, options.minutes * 60))
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    finally:
        process.kill()
    log = (WORK / "server.log.txt").read_text(encoding="utf-8", errors="replace")
    record = in_numbers(made.found, options.minutes, code, log)
    options.record.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.record, json.dumps(record, indent=1) + "\n")
    print(json.dumps({name: record[name] for name in ("requests", "memory", "tracebacks", "exit_code")}))
    bad = sum(record["requests"][kind] for kind in ("lost", "crossed", "different", "failed"))
    return int(bad > 0 or code != 0 or record["tracebacks"] > 0)


if __name__ == "__main__":
    sys.exit(main())
