"""Let glibc keep freed memory, because each training step makes tensors of the same sizes again."""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt(3), and their values.
M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD = -4, -1, -2
NO_BLOCK_APART = 0
NEVER = 2**31 - 1
PAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory in this process; return whether it does.

    By default glibc maps each large block separately and returns it to the operating system when it is freed. Each
    training step on a CPU then has a page fault for every 4 KiB of its activations. In docs/lab-log.md this was 16 % of
    the time of prefix tuning. With this function the peak of memory was 3 to 7 % higher, and the process keeps the
    memory until it ends.

    The function has no effect without glibc, or if the user has set a variable MALLOC_... or GLIBC_TUNABLES, or another
    allocator in LD_PRELOAD.
    """
    chosen = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if chosen or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # for example musl
        return False
    settings = ((M_MMAP_MAX, NO_BLOCK_APART), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, PAD))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
