"""Requests per second, latency and memory of one process that serves eight soft prompts, against PEFT and vLLM.

    python -m benchmarks.serving [--vllm PYTHON] [--quick FOLDER]

The ways:

- `ours`: the scheduler and batch of `recipes/serve.py`.
- `ours, computed anew`: the same, with each soft prompt's keys and values computed for each request.
- `peft, switching`: stock PEFT's `generate`, with the adapter switched at each request.
- `peft, grouped`: the same, with the waiting requests of one task in one call.
- `lora, mixed`: LoRA with requests of all tasks in one batch, by `adapter_names`.
- `vllm, baked`: vLLM with the soft prompts in its model's vocabulary, if `--vllm` names the Python of its environment.

All ways answer the same texts with 24 greedy tokens, in float32, with the same number of threads. The ways of PEFT and
this project share a process. `saturation` has 32 clients; each sends its next request after each answer. The ways take
turns in its rounds. `idle` has one client. Other loads are Poisson arrivals, at shares of this project's saturation and
at half of each way's saturation. Each cell is measured once and kept in results/serving.json. From this record
docs/serving_benchmark.md is written. `--quick FOLDER` measures a few requests of each way, without a record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving import memory
from benchmarks.serving.loads import Load, drawn
from benchmarks.serving.page import write_page
from benchmarks.serving.processes import Http, Vllm, save_baked
from benchmarks.serving.ways import BATCH, Grouped, MixedLora, Ours, Switching, Way
from benchmarks.serving.workload import ANSWER, ROWS, TASKS, VIRTUAL, all_requests, loaded, save_adapters
from softprompts.errors import UserError
from softprompts.runs.environment import environment
from softprompts.serving.tasks import Tasks
from softprompts.system.files import write_atomically

RECORD = Path("results/serving.json")
PAGE = Path("docs/serving_benchmark.md")
WORK = Path("runs/serving")
CLIENTS = 32
SHARES = (0.25, 0.5, 0.75)  # of this project's saturation


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measurements.

    rounds: number of saturation's rounds; tasks: numbers of tasks whose memory is measured; requests: requests per
    round; alone: requests of one client; seconds: duration of arrivals, with at least 2 * `alone` and at most 100
    requests.
    """

    rounds: int = 3
    tasks: tuple[int, ...] = memory.COUNTS
    requests: int = 96
    alone: int = 24
    seconds: float = 30.0


@dataclass
class Bench:
    """The ways, each made at its first measurement, and the growing record."""

    sizes: Sizes
    model: str | None
    vllm: str | None
    file: Path | None
    record: dict[str, Any]
    work: Path = WORK
    made: dict[str, Way] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base, self.tokenizer = loaded(self.model)
        self.adapters = self.work / "adapters"
        save_adapters(self.base, self.tokenizer, self.adapters)
        self.tasks = Tasks(self.base, self.tokenizer)
        for name in TASKS:
            self.tasks.add(name, str(self.adapters / name))
        self.requests = all_requests(self.base, self.tokenizer)

    @property
    def makers(self) -> dict[str, Callable[[], Way]]:
        """Functions that make each way."""
        ways: dict[str, Callable[[], Way]] = {
            "ours": lambda: Ours(self.tasks, reuse=True),
            "ours, computed anew": lambda: Ours(self.tasks, reuse=False),
            "peft, switching": lambda: Switching(self.base, self.adapters),
            "peft, grouped": lambda: Grouped(self.base, self.adapters),
            "lora, mixed": lambda: MixedLora(loaded(self.model)[0]),
        }
        return ways | ({"vllm, baked": self._vllm} if self.vllm else {})

    def _vllm(self) -> Way:
        baked = self.work / "baked"
        if not baked.is_dir():
            save_baked(loaded(self.model)[0], self.tasks, baked)
        way = Vllm(str(self.vllm), baked, len(self.base.get_input_embeddings().weight))
        self.record["vllm"] = way.version
        return way

    def cell(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a cell; measure it if it is not recorded."""
        cells = self.record["cells"]
        if key not in cells:
            cells[key] = measure()
            if self.file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.file, json.dumps(self.record, indent=1) + "\n")
            print(f"{key}: {in_words(cells[key])}", flush=True)
        found: dict[str, Any] = cells[key]
        return found

    def serve(self, name: str, load: Load) -> dict[str, Any]:
        """Let a way answer a load, after a few requests as a warm-up."""
        if name not in self.made:
            self.made[name] = Http(self.model, self.adapters) if name == "ours, http" else self.makers[name]()
            self.made[name].serve(Load(drawn(self.requests, 8, 99), clients=8))
        self.made[name].serve(load)
        return told(load)

    def saturate(self, name: str, number: int) -> dict[str, Any]:
        """Measure a way with the greatest number of clients."""
        # This way answers one request at a time, so a third of the requests is enough.
        count = self.sizes.requests // 3 if name == "peft, switching" else self.sizes.requests
        return self.serve(name, Load(drawn(self.requests, count, number), clients=CLIENTS))

    def saturation(self, name: str) -> float:
        """Return the median of a way's rounds, in requests per second."""
        cells = self.record["cells"]
        return median(cells[f"saturation/{name}/{number}"]["a_second"] for number in range(self.sizes.rounds))

    def at(self, name: str, rate: float) -> dict[str, Any]:
        """Measure a way at this rate of arrivals per second, unless it cannot answer them."""
        if rate > 0.95 * self.saturation(name):
            return {"beyond": round(rate, 3)}
        count = round(min(100, max(2 * self.sizes.alone, rate * self.sizes.seconds)))
        return {"rate": round(rate, 3)} | self.serve(name, Load(drawn(self.requests, count, 7), rate=rate))

    def memory(self) -> dict[str, Any]:
        """Measure memory in a separate process."""
        out = self.work / "memory.json"
        given = (self.model, self.adapters / "movies", self.work / "many", out, self.sizes.tasks)
        process = multiprocessing.get_context("spawn").Process(target=memory.write, args=given)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"memory could not be measured: code {process.exitcode}")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found

    def run(self) -> None:
        """Measure all cells that are not recorded."""
        ways = list(self.makers)
        for number in range(self.sizes.rounds):
            for name in ways:
                self.cell(f"saturation/{name}/{number}", lambda n=name, r=number: self.saturate(n, r))  # type: ignore[misc]
        for name in ways:
            alone = Load(drawn(self.requests, self.sizes.alone, 0))
            self.cell(f"idle/{name}", lambda n=name, load=alone: self.serve(n, load))  # type: ignore[misc]
            self.cell(f"half/{name}", lambda n=name: self.at(n, self.saturation(n) / 2))  # type: ignore[misc]
        for share in SHARES:
            rate = share * self.saturation("ours")
            for name in ways:
                self.cell(f"load/{share}/{name}", lambda n=name, r=rate: self.at(n, r))  # type: ignore[misc]
        self.cell("saturation/ours, http/0", lambda: self.saturate("ours, http", 0))
        self.cell("idle/ours, http", lambda: self.serve("ours, http", Load(drawn(self.requests, self.sizes.alone, 0))))

    def close(self) -> None:
        """End all running ways."""
        for way in self.made.values():
            way.close()


def told(load: Load) -> dict[str, Any]:
    """Return the record of a load: its rate, quantiles of its times, and a digest of each answer."""
    served = sorted(load.served, key=lambda one: one.arrived)
    return {
        "requests": len(served),
        "a_second": round(len(served) / max(one.over for one in served), 4),
        "first": quantiles([one.first - one.arrived for one in served]),
        "latency": quantiles([one.over - one.arrived for one in served]),
        "answers": {f"{one.request.task}/{one.request.number}": digest(one.tokens) for one in served if one.tokens},
    }


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, in seconds."""
    ordered = sorted(seconds)
    return {
        "p50": round(median(ordered), 4),
        "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 4),
    }


def digest(tokens: list[int]) -> str:
    """Return a short digest of an answer."""
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:12]


def in_words(cell: dict[str, Any]) -> str:
    """Return a cell as text for printing."""
    if "latency" in cell:
        first, latency = cell["first"], cell["latency"]
        return (
            f"{cell['a_second']:.2f} requests per second; first token {first['p50']:.2f} s, p99 {first['p99']:.2f} s; "
            f"answer {latency['p50']:.2f} s, p99 {latency['p99']:.2f} s"
        )
    return ", ".join(f"{name} {value}" for name, value in cell.items())


def new_record(sizes: Sizes) -> dict[str, Any]:
    """Return a record without cells."""
    settings = {
        "answer_tokens": ANSWER,
        "virtual_tokens": VIRTUAL,
        "tasks": {name: f"{task.dataset}, {task.kind.value}" for name, task in TASKS.items()},
        "texts_a_task": ROWS,
        "rows_in_a_batch": BATCH,
        "clients": CLIENTS,
        "rounds": sizes.rounds,
        "dtype": "float32",
    }
    return {"environment": environment(), "settings": settings, "vllm": "absent", "cells": {}}


def continued(file: Path) -> dict[str, Any]:
    """Return a record that was begun.

    Raises:
        UserError: another machine began it. Ratios between two machines mean nothing.
    """
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    begun, here = (made["hardware"]["processor"] for made in (record["environment"], environment()))
    if begun != here:
        # Uncommitted, the removal of a tracked file would mark the new record as one with changes.
        raise UserError(f"{file} was begun on {begun}, but this machine is {here}; remove the file in a commit first")
    return record


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", metavar="PYTHON", help="Python of an environment with vLLM and lazy-loader")
    parser.add_argument(
        "--quick", metavar="FOLDER", help="a few requests of each way; files and page go to this folder"
    )
    parser.add_argument("--model", metavar="FOLDER", help="with --quick: a base model instead of the bundled one")
    options = parser.parse_args()
    if options.model and not options.quick:
        parser.error("--model applies only with --quick")
    if options.quick:
        work, file, page = Path(options.quick), None, Path(options.quick) / "page.md"
        sizes = Sizes(rounds=1, tasks=(1, 10, 100), requests=24, alone=3, seconds=1.0)
    else:
        work, file, page, sizes = WORK, RECORD, PAGE, Sizes()
    keeps = file is not None and file.is_file()
    try:
        record = continued(RECORD) if keeps else new_record(sizes)
    except UserError as error:
        parser.error(str(error))
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(sizes, options.model, options.vllm, file, record, work)
    bench.cell("memory", bench.memory)
    try:
        bench.run()
    finally:
        bench.close()
    write_page(record, page)


if __name__ == "__main__":
    main()
