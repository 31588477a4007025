"""Ways to launch a run: as one process, as two, or with `accelerate launch`. Each way is a function.

The first two ways fork this process, which has imported all libraries. A fork starts at once, and signals affect it
like any process. Processes that accelerate launches import the libraries again.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import softprompts
from benchmarks.ports import free_port
from softprompts.runs.command import cli

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "prompt_tuning.py"
SECONDS = 120  # longest run
Hook = Callable[[], None]


@dataclass
class Started:
    """Processes of one run, by rank; `launcher`, if any, is the process that started them and ends with them.

    `codes` has the known exit codes; if a signal ended the process, the code is minus the signal's number.
    """

    pids: list[int]
    logs: list[Path]
    launcher: subprocess.Popen[bytes] | None = None
    codes: dict[int, int] = field(default_factory=dict)

    def poll(self) -> bool:
        """Return whether all processes have ended."""
        if self.launcher:
            if self.launcher.poll() is not None:
                self.codes[self.launcher.pid] = self.launcher.returncode
            return bool(self.codes)
        for pid in self.pids:
            if pid not in self.codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
        return len(self.codes) == len(self.pids)

    def wait(self, seconds: float = SECONDS) -> bool:
        """Wait until all processes have ended, at most `seconds`; return whether they have."""
        until = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        return True

    def send(self, number: int, rank: int | None = None) -> None:
        """Send a signal to one process, or to all including the launcher."""
        chosen = self.pids if rank is None else [self.pids[rank]]
        if self.launcher and rank is None:
            chosen = [*chosen, self.launcher.pid]
        for pid in chosen:
            if pid not in self.codes:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def end(self) -> None:
        """Kill all remaining processes, and wait for their end."""
        self.send(signal.SIGKILL)
        if not self.wait():
            raise RuntimeError(f"{self.pids} cannot be killed")

    @property
    def code(self) -> int:
        """The exit code of the run: the launcher's code, or the first that is not 0."""
        return next((code for code in self.codes.values() if code), 0)

    @property
    def said(self) -> list[str]:
        """The output of the processes, one text each."""
        return [log.read_text(encoding="utf-8", errors="replace") for log in self.logs]


Way = Callable[[list[str], Path, Hook | None], Started]


def single(command: list[str], log: Path, hook: Hook | None = None) -> Started:
    """Start one process."""
    return _forked(command, log, [{}], hook)


def two(command: list[str], log: Path, hook: Hook | None = None) -> Started:
    """Start two processes that share each batch, over gloo."""
    port = str(free_port())
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"ACCELERATE_USE_CPU": "true"}
    return _forked(command, log, [common | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(2)], hook)


def launched(
    command: list[str], log: Path, hook: Hook | None = None, *, config: str = "configs/accelerate/multi_cpu.yaml"
) -> Started:
    """Start two processes with `accelerate launch`, and wait for both; hooks are not possible."""
    assert hook is None
    launch = ["-m", "accelerate.commands.launch", "--quiet", "--config_file", config]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *launch, str(RECIPE), *command],
            cwd=ROOT,
            stdout=file,
            stderr=file,
            env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        )
    until = time.monotonic() + SECONDS
    while len(found := _children(process.pid)) < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    return Started([found[rank] for rank in sorted(found)], [log], process)


WAYS: dict[str, Way] = {
    "single": single,
    "two": two,
    "launched": launched,
    "sharded": partial(launched, config="configs/accelerate/fsdp2.yaml"),
}


def _children(launcher: int) -> dict[int, int]:
    """Return the processes that a launcher has started, by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            rank = re.search(rb"(?:^|\0)RANK=(\d+)", (place / "environ").read_bytes()) if parent == launcher else None
            if rank:
                found[int(rank[1])] = int(place.name)
    return found


def warm_up() -> None:
    """Import all modules of a run once, for all forks."""
    for name in vars(softprompts)["__all__"]:
        getattr(softprompts, name)
    for name in ("evaluate", "matplotlib.pyplot", "peft.tuners.lora", "transformers.models.llama.modeling_llama"):
        importlib.import_module(name)


def _forked(command: list[str], log: Path, environments: Sequence[dict[str, str]], hook: Hook | None) -> Started:
    logs = [log.with_name(f"{log.name}.{rank}") for rank in range(len(environments))]
    pids = []
    for environment, own in zip(environments, logs, strict=True):
        child = os.fork()
        if child == 0:
            _become(command, own, environment, hook)
        pids.append(child)
    return Started(pids, logs)


def _become(command: list[str], log: Path, environment: dict[str, str], hook: Hook | None) -> NoReturn:
    """Run the recipe in this process, then end it."""
    code = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(stream, number)
        os.environ |= environment
        sys.argv = [str(RECIPE), *command]
        spec = importlib.util.spec_from_file_location("recipe", RECIPE)
        assert spec
        assert spec.loader
        recipe = importlib.util.module_from_spec(spec)
        sys.modules["recipe"] = recipe  # the parser reads the docstring there
        spec.loader.exec_module(recipe)
        if hook:
            hook()
        cli(recipe.main)
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
