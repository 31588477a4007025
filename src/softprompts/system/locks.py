"""Lock a run's folder: a lock file names the process that owns it, and does not outlive a process on this machine."""

from __future__ import annotations

import atexit
import socket
from contextlib import suppress
from pathlib import Path

from softprompts.errors import UserError
from softprompts.system.files import one_line

from filelock import MarkerSoftFileLock, Timeout

LOCK = ".run.lock"
PATIENCE = 3.0  # seconds; filelock takes over an incomplete lock file after two
_held: dict[Path, MarkerSoftFileLock] = {}


def own(folder: Path, key: str = "run.output_dir") -> bool:
    """Make this process the one owner of an existing folder, until it ends or calls `release`.

    The lock is a file that is created exclusively, so it works on file systems without `flock`. It contains the host,
    the process and the start time of the process. If that process has ended on this host, the lock is taken over.

    Args:
        folder: the folder.
        key: the setting that names it, for the error.

    Returns:
        Whether the process is a new owner; False if it owned the folder already.

    Raises:
        UserError: another process owns the folder; a process on another host has owned it; the folder cannot be
            written.
    """
    path = folder.resolve() / LOCK
    if path in _held and _held[path].is_lock_held_by_us:
        return False
    lock = MarkerSoftFileLock(path, thread_local=False)
    with one_line(f"{key}: {folder}"):
        try:
            lock.acquire(timeout=PATIENCE, poll_interval=0.1)
        except Timeout:
            owner = lock.owner
            by = f"process {owner.pid} on {owner.hostname}" if owner else "an unknown process"
            raise UserError(
                f"{key}: {folder} is in use by {by}; choose another folder, or wait. If that process has "
                f"ended, delete {folder / LOCK}"
            ) from None
    _held[path] = lock
    return True


def break_foreign(folder: Path) -> None:
    """Delete the lock of a process on another host. The caller knows that this process has ended.

    `own` cannot know that, because it sees the processes of its own host only.
    """
    lock = MarkerSoftFileLock(folder.resolve() / LOCK)
    if lock.owner and lock.owner.hostname != socket.gethostname():
        lock.force_break()


@atexit.register
def release(folder: Path | None = None) -> None:
    """Give up a folder, or all that this process owns."""
    for path in [folder.resolve() / LOCK] if folder else list(_held):
        with suppress(OSError):  # the folder may be gone
            _held.pop(path).release()
