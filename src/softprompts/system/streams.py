"""Standard streams and the end of a process: no character, closed pipe or thread of a library spoils it."""

from __future__ import annotations

import atexit
import locale
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from signal import SIGPIPE
from typing import Any, NoReturn

from softprompts.errors import UserError, is_first_process, short


@contextmanager
def quiet_streams() -> Iterator[None]:
    """Within this context standard output and error accept every character and may be closed, and files are UTF-8.

    Raises:
        SystemExit: output goes to a closed pipe; the code is 128 + SIGPIPE, as after this signal.
    """
    # Libraries that name no encoding, such as the reader of config files, use the terminal's encoding.
    with suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller, as with `>&-`
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    shown = threading.excepthook
    threading.excepthook = partial(_show_unless_kept, shown)
    try:
        yield
    except BrokenPipeError:
        sys.exit(128 + SIGPIPE)
    finally:
        threading.excepthook = shown
        _give_up_what_is_broken()


def _give_up_what_is_broken() -> None:
    """Redirect a broken stream to the null device, because Python would write again at its end, and report an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):  # it may have no descriptor
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def _show_unless_kept(show: Callable[[threading.ExceptHookArgs], Any], ended: threading.ExceptHookArgs) -> None:
    """Show the error that ended a thread, unless the thread keeps it for its caller, as TensorBoard's writer does.

    The caller raises the same error, which becomes one line. The thread's traceback would stand beside it.
    """
    if getattr(ended.thread, "exception", None) is not ended.exc_value:
        show(ended)


def fail(reason: str) -> NoReturn:
    """End this process with one line on standard error and exit code 2."""
    # A name of thousands of letters would hide the message.
    reason = re.sub(r"\S{400,}", lambda name: short(name[0]), reason)
    # Every process of a distributed run fails in the same way; one line is enough.
    if is_first_process():
        with suppress(OSError):  # the pipe is closed
            print(f"error: {reason}", file=sys.stderr, flush=True)
    sys.exit(2)


def lines_of_input() -> list[str]:
    """Return the lines of standard input that are not blank, without their ends.

    Raises:
        UserError: bytes are not UTF-8, with any encoding of the terminal; the input cannot be read.
    """
    binary = getattr(sys.stdin, "buffer", None)
    try:
        lines = binary.read().splitlines() if binary else list(sys.stdin)
    except OSError as error:
        raise UserError(f"standard input: {error.strerror}") from None
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line if isinstance(line, str) else line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"standard input, line {number}: not UTF-8 (byte 0x{line[error.start]:02x})") from None
    return [text.rstrip("\r\n") for text in texts if text.strip()]


def end_process_of_launch() -> None:
    """End this process if it has met others, with the exit code of the exception that is in flight, if any.

    Python would destroy gloo's process group, and thereby wait for its threads while it holds the interpreter's lock. A
    thread that needs this lock to free a tensor then never ends, or aborts the process. `os._exit` destroys nothing.
    """
    torch = sys.modules.get("torch")  # an import would take a second
    if not torch or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    error, code = sys.exception(), 1
    if error is None:
        code = 0
    elif not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
    elif error.code is None or isinstance(error.code, int):
        code = error.code or 0
    else:
        print(error.code, file=sys.stderr)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed by its reader
            stream.flush()
    os._exit(code)
