"""Run a recipe's command in a fork of this process: like a separate process, without its seconds of imports."""

from __future__ import annotations

import io
import itertools
import os
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from helpers import ROOT, load_recipe
from softprompts.runs.command import cli
from warm import import_all

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

SECONDS = 60  # seconds of the longest command; a valid one takes about a second
MEMORY = 6 * 2**30  # bytes of addresses in addition to those of the imports

torch.set_num_threads(1)  # threads would be lost in a fork
import_all()  # the process that forks all others imports this module
RECIPES = {path.stem: load_recipe(path.stem) for path in sorted((ROOT / "recipes").glob("*.py"))}


@dataclass(frozen=True)
class Finished:
    """A command that has ended. `code` is None if it was killed because it took too long, negative for a signal."""

    code: int | None
    out: str
    err: str


def run_recipe(
    command: list[str],
    folder: Path,
    stdin: bytes = b"",
    encoding: str = "utf-8",
    stop_after: int | None = None,
    environment: dict[str, str] | None = None,
) -> Finished:
    """Run a recipe from `folder`.

    Args:
        command: the recipe's name and its flags.
        folder: the working directory.
        stdin: its standard input.
        encoding: encoding of the terminal.
        stop_after: number of steps after which it gets SIGTERM.
        environment: further environment variables.
    """
    files = [folder.with_name(f"{folder.name}.{name}") for name in ("in", "out", "err")]
    files[0].write_bytes(stdin)
    child = os.fork()
    if child == 0:
        os.environ |= environment or {}
        _become(command, folder, files, encoding, stop_after)
    ends = time.monotonic() + SECONDS
    code = None
    while code is None and time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.0 if ended else 0.005)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return Finished(code, *(file.read_bytes().decode(encoding, "replace") for file in files[1:]))


def _become(command: list[str], folder: Path, files: list[Path], encoding: str, stop_after: int | None) -> NoReturn:
    """Run the recipe in this process, then end it."""
    code = 1
    try:
        addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (addresses + MEMORY, addresses + MEMORY))
        os.chdir(folder)
        os.environ["HOME"] = str(folder)  # the folder of "~"
        for number, file in enumerate(files):
            os.dup2(os.open(file, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        errors = "surrogateescape"  # Python's standard input
        sys.stdin = io.TextIOWrapper(io.FileIO(0), encoding, errors)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), encoding)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), encoding, "backslashreplace", line_buffering=True)
        sys.argv = [f"recipes/{command[0]}.py", *command[1:]]
        if stop_after is not None:
            _stop_after(stop_after)
        cli(RECIPES[command[0]].main)
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


def _stop_after(updates: int) -> None:
    done = itertools.count(1)

    def count(*_: object) -> None:
        if next(done) == updates:
            os.kill(os.getpid(), signal.SIGTERM)

    register_optimizer_step_post_hook(count)
