"""Find the process of a launch that does not respond or has ended, when the others stop waiting for it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from softprompts.errors import is_first_process, logger

PATIENCE = 5.0  # seconds in which every living process reports
STEP, ALIVE = "softprompts/step/{}", "softprompts/alive/{}"  # keys of a rank in the store that all processes share
# Words of gloo, NCCL and PyTorch for a lost process.
WORDINGS = ("gloo", "Gloo", "NCCL", "Connection closed by peer", "Timed out waiting", "Broken pipe", "TCPStore")

ENDED = ("closed", "reset", "refused", "Broken pipe")


def tell_step(step: int) -> None:
    """Record for the other processes of a launch that this one begins a step."""
    if store := _store():
        store.set(STEP.format(_rank()), str(step))


def lost_process(error: RuntimeError) -> str | None:
    """Return one line that names the processes that do not respond, or have ended; None for any other error.

    PyTorch stops waiting after `run.process_timeout`, or when a connection is closed, and does not name the process.
    Every remaining process reports here; a process that does not report is lost.
    """
    theirs = type(error).__name__.startswith("Dist") or any(wording in str(error) for wording in WORDINGS)
    if not theirs or (store := _store()) is None:
        return None
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher ends all processes when one has failed
    own, world = _rank(), int(os.environ["WORLD_SIZE"])
    reported, step = _soon(store, own, world) or ({own}, None)  # if neither, the lost process keeps the store
    lost = ", ".join(map(str, sorted(set(range(world)) - reported))) or "unknown"
    how = "has ended" if any(word in str(error) for word in ENDED) else "does not respond"
    line = (
        f"process {lost} of {world} {how}{f' at step {step}' if step else ''}; "
        "saved files are unharmed. Look for its own error, then --resume"
    )
    # The command line prints only the error of a machine's first process, but that may be the lost one.
    if not is_first_process() and own == min(reported):
        sys.stderr.write("\n")  # the progress bar of the first process may be on this line
        logger.error(line)
    return line


def _soon(store: Any, own: int, world: int) -> tuple[set[int], str | None] | None:
    """Return `_reports`; None if the process that keeps the store has ended, or stops responding.

    The store has a timeout for keys that are missing, but none for a process that does not answer. So a thread waits.
    """
    found: list[tuple[set[int], str | None]] = []

    def report() -> None:
        with suppress(RuntimeError):  # the process has ended
            found.append(_reports(store, own, world))

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    thread.join(2 * PATIENCE)
    return found[0] if found else None


def _reports(store: Any, own: int, world: int) -> tuple[set[int], str | None]:
    """Report this process; return the ranks that have reported after `PATIENCE`, or all, and this process's step."""
    store.set_timeout(timedelta(seconds=PATIENCE))
    store.set(ALIVE.format(own), "")
    until, reported = time.monotonic() + PATIENCE, {own}
    while len(reported) < world and time.monotonic() < until:
        time.sleep(0.1)
        reported = {rank for rank in range(world) if store.check([ALIVE.format(rank)])}
    key = STEP.format(own)
    return reported, store.get(key).decode() if store.check([key]) else None


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _store() -> Any:
    """Return the store that all processes share; None in a launch of one process."""
    torch = sys.modules.get("torch")  # an import would take a second
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not torch or not torch.distributed.is_available():
        return None
    if not torch.distributed.is_initialized():
        return None
    return torch.distributed.distributed_c10d._get_default_store()
