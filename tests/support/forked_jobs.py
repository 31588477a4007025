"""Run a benchmark's launch whose jobs are forks of it: `forked_jobs.py -mMODULE WORD...`, in a warm process.

A launch starts each job as Python anew, which imports PyTorch and PEFT for seconds. Here a job is a fork of the launch,
which has imported them. It is a process in a session of its own and holds the lock, so that a launch is killed and
stopped as any other.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NoReturn

sys.path.insert(1, str(Path.cwd()))  # where the benchmarks are; the script's own folder comes first

from benchmarks import processes
from warm import run_script


class Fork:
    """What `launched` needs of `subprocess.Popen`, for a command that begins with Python itself."""

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        stdout: IO[Any],
        stderr: IO[Any],
        pass_fds: list[int],
        start_new_session: bool,
    ) -> None:
        assert command[0] == sys.executable
        assert start_new_session
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for number, stream in ((1, stdout), (2, stderr)):
                os.dup2(stream.fileno(), number)
            close_all_but({0, 1, 2, *pass_fds})
            end_with(command[1:], env)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return its exit code, minus the signal's number where one ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def close_all_but(kept: set[int]) -> None:
    """Close what a new Python would not have: the launch's other locks, its log."""
    for first, last in pairwise(sorted({-1, *kept, os.sysconf("SC_OPEN_MAX")})):
        os.closerange(first + 1, last)


def end_with(command: list[str], env: dict[str, str]) -> NoReturn:
    """Run a script, and end this process as Python would; nothing of the launch runs in it again."""
    code: Any = 1
    try:
        run_script(command, str(Path.cwd()), env)
        code = 0
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    processes.subprocess = SimpleNamespace(Popen=Fork)  # type: ignore[assignment]
    run_script(sys.argv[1:], str(Path.cwd()), dict(os.environ))
