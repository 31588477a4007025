"""A run's folder has one owner: a lock file that names its process, and that outlives no process on this machine."""

from __future__ import annotations

import atexit
import socket
from contextlib import suppress
from pathlib import Path

from softprompts.errors import UserError
from softprompts.system.files import one_line

from filelock import MarkerSoftFileLock, Timeout

LOCK = ".run.lock"
PATIENCE = 3.0  # seconds; filelock takes over a marker that is cut short after two
_held: dict[Path, MarkerSoftFileLock] = {}


def own(folder: Path, key: str = "run.output_dir") -> bool:
    """Make this process the one owner of an existing folder, until it ends or calls `release`.

    The lock is a file that is created exclusively, so that it works on file systems without `flock`. It holds host,
    process and the time when the process started: one whose process has ended on this host is taken over.

    Args:
        folder: the folder.
        key: the setting that names it, for the error.

    Returns:
        Whether it is so from now on; False if it was before.

    Raises:
        UserError: another process owns the folder, or one on another host did; the folder cannot be written.
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
