"""One trial of a fault: its folder, its runs, and the checks at its end."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.launches import SECONDS, WAYS, Hook, Started
from benchmarks.chaos.subject import command_of, error_lines, left_by
from softprompts.system.locks import LOCK

from torch.optim.optimizer import register_optimizer_step_post_hook


class BrokenError(Exception):
    """Work was lost, or an error was not one line."""


@dataclass(frozen=True)
class Undisturbed:
    """A run without faults: its adapter and predictions, its seconds, and the memory pages of its files."""

    left: tuple[bytes, bytes]
    seconds: float
    pages: int


@dataclass
class Trial:
    """One trial.

    Args:
        rng: generator of all random choices.
        number: number of this trial, from 0.
        wanted: number of the fault's trials.
        folder: an empty folder.
        subject: folder that `make_subject` wrote.
        undisturbed: undisturbed runs, by the name of their way of launching.
        way: name of the way of launching.
    """

    rng: random.Random
    number: int
    wanted: int
    folder: Path
    subject: Path
    undisturbed: dict[str, Undisturbed]
    way: str = "single"
    logs: int = 0
    flags: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The output folder of the runs."""
        return self.folder / "place" / "run"

    @property
    def seconds(self) -> float:
        """Duration of an undisturbed run."""
        return self.undisturbed[self.way].seconds

    def start(self, *more: str, hook: Hook | None = None) -> Started:
        """Start a run."""
        self.output.parent.mkdir(exist_ok=True)
        self.logs += 1
        command = command_of(self.subject, self.output, *more, **self.flags)
        return WAYS[self.way](command, self.folder / f"log-{self.logs}", hook)

    def run(self, *more: str, hook: Hook | None = None) -> Started:
        """Run to the end."""
        started = self.start(*more, hook=hook)
        self.end(started)
        return started

    def end(self, started: Started) -> None:
        """Wait for the end of a run; like a launcher, end the processes that continue after one was killed."""
        seconds = 20 if len(started.pids) > 1 and not started.launcher else SECONDS
        if started.wait(seconds):
            return
        if any(code < 0 for code in started.codes.values()):
            started.send(signal.SIGTERM)
        if not started.wait():
            started.end()
            raise BrokenError(f"a run does not end: {started.said}")

    def refused(self, started: Started, *words: str) -> str:
        """Return the error of a run that has ended in one line with exit code 2 (1 from a launcher)."""
        errors = error_lines(started.said)
        traceback = not started.launcher and any("Traceback" in text for text in started.said)
        if started.code not in (1, 2) or len(errors) != 1 or traceback:
            raise BrokenError(f"not one line: exit code {started.code}: {_ends(started)}")
        if words and not any(word in errors[0] for word in words):
            raise BrokenError(f"another line: {errors[0]}")
        return errors[0]

    def finish(self, left: tuple[bytes, bytes] | None = None) -> Started:
        """Resume the run, and compare its output with an undisturbed run's, bit by bit."""
        started = self.run("--resume")
        if started.code:
            raise BrokenError(f"resume ended with {started.code}: {_ends(started)}")
        self.compare(left)
        return started

    def compare(self, left: tuple[bytes, bytes] | None = None) -> None:
        """Compare a run's output with an undisturbed run's, bit by bit."""
        found, expected = left_by(self.output), left or self.undisturbed[self.way].left
        if found is None:
            raise BrokenError("there is no result")
        for name, one, other in zip(("weights", "answers"), found, expected, strict=True):
            if one != other:
                raise BrokenError(f"other {name}")
        hidden = [str(p.relative_to(self.output)) for p in self.output.rglob(".*") if p.name != LOCK]
        if hidden:
            raise BrokenError(f"left over: {', '.join(hidden)}")

    def moment(self, started: Started, share: float = 1.0) -> bool:
        """Wait until a random moment within this share of a run's time; return whether it still runs then."""
        return not started.wait(self.rng.uniform(0.0, share) * self.seconds)

    @contextmanager
    def mounted(self, options: str) -> Iterator[Path]:
        """Within this context the output is on its own file system, in memory."""
        place = self.output.parent
        place.mkdir()
        if not mount("-t", "tmpfs", "-o", options, "tmpfs", str(place)):
            raise RuntimeError(f"no file system can be mounted at {place}")
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)


def mount(*words: str) -> bool:
    """Mount a file system, or mount it again; return whether it was possible."""
    return subprocess.run(["mount", *words], capture_output=True).returncode == 0


def stops_after(updates: int) -> Hook:
    """Return a hook that sends SIGTERM to a run after this number of its own steps."""

    def hook() -> None:
        done: list[int] = []

        def count(*_: object) -> None:
            done.append(0)
            if len(done) == updates:
                signal.raise_signal(signal.SIGTERM)

        register_optimizer_step_post_hook(count)

    return hook


def measure(trial: Trial) -> Undisturbed:
    """Run once without a fault."""
    started = time.monotonic()
    done = trial.run()
    seconds = time.monotonic() - started
    left = left_by(trial.output)
    if done.code or left is None:
        raise RuntimeError(f"an undisturbed run ended with {done.code}: {done.said}")
    sizes = [p.stat().st_size for p in trial.output.rglob("*") if p.is_file()]
    folders = sum(1 for p in trial.output.rglob("*") if p.is_dir())
    return Undisturbed(left, seconds, sum(-(-size // 4096) for size in sizes) + folders)


def clean(folder: Path) -> None:
    """Make a folder empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _ends(started: Started) -> list[str]:
    return [text[-700:] for text in started.said]
