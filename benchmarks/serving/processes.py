"""Ways that run in a separate process: vLLM, and this project's server over HTTP."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.serving.loads import Load, Served
from benchmarks.serving.ways import BATCH
from benchmarks.serving.workload import ANSWER, TASKS, VIRTUAL, loaded
from softprompts.config.tools import ServeConfig
from softprompts.export.vocabulary import add_rows
from softprompts.serving.http.server import run_server
from softprompts.serving.tasks import Tasks

import httpx
import torch


def save_baked(base: Any, tasks: Tasks, folder: Path) -> None:
    """Write the base model with a soft prompt of each task as new vocabulary; changes `base`.

    A prefix cannot become vocabulary. Embeddings of the same number of tokens replace it, at the same cost for vLLM.
    """
    first = len(base.get_input_embeddings().weight)
    stand_in = base.get_input_embeddings().weight[:VIRTUAL].float()
    soft = [tasks.get(name).soft for name in TASKS]
    vectors = torch.cat([one if isinstance(one, torch.Tensor) else stand_in for one in soft])
    add_rows(base, range(first, first + len(vectors)), vectors.detach())
    base.save_pretrained(folder)


class Vllm:
    """vLLM's own engine, with its prefix cache; it reads the soft prompt as text."""

    def __init__(self, python: str, model: Path, vocabulary: int) -> None:
        self.first = {name: vocabulary + VIRTUAL * number for number, name in enumerate(TASKS)}
        settings = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as many threads as the other ways have, on any core
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2"),
            "PYTHONPATH": os.pathsep.join(["src", "."]),
        }
        log = model.with_name("vllm.log.txt").open("w")
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.serving.vllm_worker", str(model), str(BATCH)],
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self.version = self._heard()["vllm"]

    def _heard(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"vLLM ended with code {self.process.wait()}; see runs/serving/vllm.log.txt")
        return json.loads(line)

    def serve(self, load: Load) -> None:
        """Send a load to the process, and read its times and answers."""
        requests = []
        for one in load.requests:
            first = self.first[one.task]
            requests.append([one.task, one.number, [*range(first, first + VIRTUAL), *one.ids]])
        given = {"requests": requests, "rate": load.rate, "clients": load.clients, "answer": ANSWER}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        load.served = [Served(load.requests[number], *times) for number, *times in self._heard()]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


class Http:
    """This project's server in a separate process, with streamed requests over HTTP."""

    def __init__(self, model: str | None, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=run_endless_server, args=(model, folder, port, torch.get_num_threads()))
        self.process.start()
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                if httpx.get(f"{self.address}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        raise TimeoutError("the server did not start within two minutes")

    def serve(self, load: Load) -> None:
        """Send requests as they arrive."""
        asyncio.run(self._serve(load))

    async def _serve(self, load: Load) -> None:
        start = time.perf_counter()
        changed, running = asyncio.Event(), set()
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.address, timeout=600, limits=limits) as client:

            async def ask(one: Served) -> None:
                asked = {
                    "model": one.request.task,
                    "prompt": list(one.request.ids),
                    "max_tokens": ANSWER,
                    "stream": True,
                }
                async with client.stream("POST", "/v1/completions", json=asked) as reply:
                    reply.raise_for_status()
                    async for line in reply.aiter_lines():
                        if line.startswith("data: ") and not one.first:
                            one.first = time.perf_counter() - start
                one.over = time.perf_counter() - start
                load.finish(one)
                changed.set()

            while not load.complete:
                now = time.perf_counter() - start
                running |= {asyncio.create_task(ask(one)) for one in load.due(now)}
                done, _ = await asyncio.wait(
                    {asyncio.create_task(changed.wait()), *running},
                    timeout=load.pause(now),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                changed.clear()
                for task in done & running:
                    task.result()
                running -= done

    def close(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.join(60)


def run_endless_server(model: str | None, folder: Path, port: int, threads: int) -> None:
    """Serve the tasks of the benchmark; no token ends an answer before its length."""
    torch.set_num_threads(threads)
    tasks = Tasks(*loaded(model))
    tasks.own_ends = frozenset()
    for name in TASKS:
        tasks.add(name, str(folder / name))
    run_server(tasks, ServeConfig(folder=str(folder), port=port, max_batch_rows=BATCH, timeout=600))
