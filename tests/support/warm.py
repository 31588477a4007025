"""Run recipes in separate processes that start fast: forks of a process that has imported the libraries.

Importing PyTorch, transformers and PEFT takes a cold process five seconds. A fork of one that has imported them takes
none, and is killed, stopped and awaited like any other. A second process has imported only the code for the command
line: its forks show the further imports of a command.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

# Modules that transformers and PEFT load late, in addition to the library's public names.
LATE = (
    "evaluate",
    "matplotlib.pyplot",
    "peft.tuners.lora",
    "scipy.stats",
    "shtab",
    "transformers.models.llama.modeling_llama",
    "transformers.pipelines",
)


NUMBER = struct.Struct("i")  # a process's number or exit code, as it is sent to the test


class WarmProcess:
    """A script in a fork of the warm process; like `subprocess.Popen`, with the parts that tests need.

    `light` uses the process that has imported only the code for the command line.
    """

    def __init__(
        self, command: list[str], folder: Path, environment: dict[str, str], said: str = "", *, light: bool = False
    ) -> None:
        self.returncode: int | None = None
        self._stdin, self._out, self._err = (TemporaryFile() for _ in range(3))  # noqa: SIM115
        self._stdin.write(said.encode())
        self._stdin.seek(0)
        self._reply, theirs = socket.socketpair()
        request = json.dumps({"command": command, "folder": str(folder), "environment": environment}) + "\n"
        descriptors = [file.fileno() for file in (self._stdin, self._out, self._err, theirs)]
        server = _server(light)
        socket.send_fds(server, [request[:1].encode()], descriptors)
        server.sendall(request[1:].encode())
        theirs.close()
        self.pid = self._number()

    def _number(self) -> int:
        """Return the next number that the keeper of the process reports."""
        said = self._reply.recv(NUMBER.size, socket.MSG_WAITALL)
        if len(said) < NUMBER.size:
            raise RuntimeError("the warm process has ended; its standard error has the reason")
        return int(NUMBER.unpack(said)[0])

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; if a signal ended the process, minus its number, as in `subprocess`."""
        if self.returncode is None:
            if not select.select([self._reply], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = self._number()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return its output on standard output and standard error until its end."""
        self.wait(timeout)
        said = []
        for file in (self._out, self._err):
            file.seek(0)
            said.append(file.read().decode())
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        """Send the process a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(signal.SIGKILL)


@cache
def _server(light: bool) -> socket.socket:
    """Start the warm process and return the socket for requests; the process ends when the socket is closed."""
    from helpers import ROOT, recipe_environment

    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno()), "light" if light else "whole"],
        cwd=ROOT,
        env=recipe_environment(),
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def import_all() -> None:
    """Do slow first-time work once for all forks: import, load a model, draw a picture."""
    # Warnings that a recipe silences first; the file stays open, because transformers' logger keeps the stream.
    with contextlib.redirect_stderr(Path(os.devnull).open("w")):
        softprompts = import_module("softprompts")
        for name in softprompts.__all__:
            getattr(softprompts, name)
        for name in LATE:
            import_module(name)
        _warm_up()


def _warm_up() -> None:
    from matplotlib.figure import Figure
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    with TemporaryDirectory() as folder:
        tiny = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
        LlamaForCausalLM(tiny).save_pretrained(folder)
        AutoModelForCausalLM.from_pretrained(folder)
    figure = Figure()
    axes = figure.subplots()
    axes.semilogy([1, 10])
    figure.savefig(io.BytesIO())


def serve(requests: socket.socket) -> None:
    """Fork a process for each request, until the other side is closed."""
    while True:
        first, streams, *_ = socket.recv_fds(requests, 1, 4)
        if not first:
            return
        line = first
        while not line.endswith(b"\n"):
            line += requests.recv(1 << 16)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # keepers that have ended
                pass
        if os.fork() == 0:
            requests.close()
            keep(json.loads(line), streams)
        for stream in streams:
            os.close(stream)


def keep(request: dict[str, Any], streams: list[int]) -> None:
    """Fork the process that runs the script, wait for it, and report its number and exit code."""
    *standard, reply = streams
    child = os.fork()
    if child == 0:
        os.close(reply)
        for number, stream in enumerate(standard):
            os.dup2(stream, number)
            os.close(stream)
        run_script(**request)
        sys.exit()
    os.write(reply, NUMBER.pack(child))
    os.write(reply, NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    os._exit(0)


def run_script(command: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run `FILE.py WORD...` or `-mMODULE WORD...` as Python does; its exception or exit code ends this process."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = command
    if command[0].startswith("-m"):
        sys.path[0] = folder
        runpy.run_module(command[0][2:], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(command[0]).absolute().parent)
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[2] == "light":
        import_module("softprompts.config.cli")
    else:
        import_all()
    serve(socket.socket(fileno=int(sys.argv[1])))
