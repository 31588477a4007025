"""Run fuzzers' cases, each in a separate process that a clean process forks, so that no case affects another."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SECONDS = 180  # seconds of the longest case: crash runs up to two commands of a minute each
ORDER = ("crash", "parity", "crash", "served", "crash", "parity")  # of the fuzzers, repeated
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["crash", "parity", "served"])
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Outcome:
    """The result of a case. `name` is "crash:12", "parity:12" or "served:12".

    Each fault is its kind, a colon, and its description.
    """

    name: str
    faults: list[str]
    seconds: float


def names_of(cases: int) -> list[str]:
    """Return the names of `count` cases; the fuzzers take turns."""
    numbers = {fuzzer: itertools.count() for fuzzer in ORDER}
    return [f"{fuzzer}:{next(numbers[fuzzer])}" for fuzzer in itertools.islice(itertools.cycle(ORDER), cases)]


def make_stock(folder: Path) -> Path:
    """Make the files that cases copy, in `folder/stock`; return that folder."""
    stock = folder / "stock"
    shutil.rmtree(stock, ignore_errors=True)
    (found,) = run_cases(["stock:0"], 0, folder)
    if found.faults:
        raise RuntimeError(found.faults[0])
    (folder / "stock-0").rename(stock)
    return stock


def run_cases(names: Iterable[str], seed: int, folder: Path, jobs: int = 1, keep: bool = False) -> Iterator[Outcome]:
    """Run cases, `jobs` at a time, and yield each result as its case ends.

    Args:
        names: names of the cases.
        seed: seed of all cases.
        folder: folder for the cases' folders and `stock`.
        jobs: number of cases that run at the same time.
        keep: whether the folders are kept.
    """
    _start_server()
    left = iter(names)
    running: dict[Any, tuple[str, BaseProcess, float]] = {}
    while True:
        while len(running) < jobs and (name := next(left, None)) is not None:
            place = _place(folder, name)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            process: BaseProcess = CONTEXT.Process(target=_work, args=(name, seed, place, folder / "stock"))
            process.start()
            running[process.sentinel] = name, process, time.monotonic()
        if not running:
            return
        ended = {int(s) for s in wait(running.keys(), timeout=1.0) if isinstance(s, int)}
        for sentinel, (name, process, started) in list(running.items()):
            seconds = time.monotonic() - started
            if sentinel not in ended and seconds < SECONDS:
                continue
            process.kill()
            process.join()
            del running[sentinel]
            file = _place(folder, name) / "faults.json"
            faults = json.loads(file.read_text()) if file.is_file() else [f"no end: exit code {process.exitcode}"]
            yield Outcome(name, faults, seconds)
            if not keep and not name.startswith("stock"):
                shutil.rmtree(file.parent)


def _start_server() -> None:
    """Start the process that imports everything once; Python 3.11 does not tell it our sys.path."""
    before = {key: os.environ.get(key) for key in ENVIRONMENT}
    os.environ |= ENVIRONMENT
    try:
        forkserver.ensure_running()
    finally:
        for key, value in before.items():
            os.environ.pop(key)
            os.environ |= {} if value is None else {key: value}


def _place(folder: Path, name: str) -> Path:
    return folder / name.replace(":", "-")


def _work(name: str, seed: int, folder: Path, stock: Path) -> None:
    import crash  # imported here, because the process that starts cases does not need it
    import parity
    import served
    import subjects

    fuzzer, number = name.split(":")
    with (folder / "log.txt").open("w") as log:
        for stream in (1, 2):  # transformers' logger keeps the stream that it found when it was imported
            os.dup2(log.fileno(), stream)
        faults: list[str] = []
        try:
            if fuzzer == "stock":
                subjects.make_stock(folder)
            elif fuzzer == "crash":
                faults = crash.run(int(number), seed, folder, stock)
            elif fuzzer == "served":
                faults = served.run(int(number), seed, folder, stock)
            else:
                faults = parity.run(int(number), seed, folder)
        except Exception as error:
            lines = traceback.extract_tb(error.__traceback__)
            ours = [f"{Path(line.filename).name}:{line.lineno}" for line in lines if "/softprompts/" in line.filename]
            where = ours[-1] if ours else f"the fuzzer, {Path(lines[-1].filename).name}:{lines[-1].lineno}"
            faults = [f"{type(error).__name__} at {where}: {str(error)[:500]}"]
            traceback.print_exc()
    # One fault of each kind is enough.
    kinds = {fault.partition(":")[0]: fault for fault in reversed(faults)}
    temporary = folder / "faults.tmp"
    temporary.write_text(json.dumps(list(kinds.values())))
    temporary.rename(folder / "faults.json")
