"""Turn full memory of a GPU or the machine into one line that names the setting to lower."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from softprompts.errors import UserError, is_first_process, logger

# Words of PyTorch and its libraries for full memory, also in their own exceptions. A thread needs room for its stack.
WORDINGS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "ALLOC_FAILED",
    "bad_alloc",
    "can't start new thread",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of CUDA, MPS, the CPU allocator, Python or NumPy means that memory is full."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(wording in str(error) for wording in WORDINGS)


@contextmanager
def one_line_if_memory_is_full(doing: str, advice: str) -> Iterator[None]:
    """Within this context full memory becomes one line: "out of memory DOING: ADVICE".

    Raises:
        UserError: memory is full.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        line = f"out of memory {doing}: {advice}"
        # The command line prints only the error of the first process, but the memory of another one may be full.
        if not is_first_process():
            logger.error("process %s: %s", os.environ["LOCAL_RANK"], line)
        raise UserError(line) from error
