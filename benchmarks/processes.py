"""Launch the processes of a benchmark, one at a time per run, stop them with the launch, and keep their output."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softprompts.system.signals import collected_signals


def launched(run: list[str], folder: Path, lock: int, mixed_precision: str = "no") -> tuple[int, str]:
    """Run a script to its end; return its exit code and the last line of its output.

    The process also holds the lock. If this launch is killed, other launches wait until the process has ended.

    Raises:
        SystemExit: with code 128 + signal, if the script or this process was stopped by SIGINT or SIGTERM.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Next to the folder, because a recipe accepts only a folder that is new, empty, or its own.
    log = folder.with_name(f"{folder.name}.log.txt")
    with log.open("ab") as said:
        # In a separate session, so that signals of the terminal arrive once, through collected_signals.
        process = subprocess.Popen(
            [sys.executable, *run],
            env=os.environ | {"ACCELERATE_MIXED_PRECISION": mixed_precision},
            stdout=said,
            stderr=said,
            pass_fds=[lock],
            start_new_session=True,
        )
        with collected_signals(process.send_signal) as received:  # it saves its checkpoint
            code = process.wait()
    if received:  # the next launch keeps a run that has nevertheless ended
        print(f"stopped; the same command continues ({log})", file=sys.stderr)
        raise SystemExit(128 + received[0])
    if code < 0:
        return code, f"killed by {signal.Signals(-code).name}"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return code, lines[-1].rpartition("\r")[2].strip()[-500:] if lines else "it printed nothing"


@contextmanager
def claimed(folder: Path) -> Iterator[int | None]:
    """Within this context, we own a run's folder. Yield the lock's descriptor; None if another process has it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder.with_name(f"{folder.name}.lock"), os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError:
        yield None
    finally:
        os.close(descriptor)
