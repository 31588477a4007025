"""Standard input, output and error of any encoding, closed or not."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from softprompts.errors import UserError
from softprompts.system.streams import fail, lines_of_input

import pytest

TEXT = r"na\xefve \U0001f44d \ud83d"
LIGHT = f"""
import sys
from softprompts.system.streams import fail, quiet_streams
with quiet_streams():
    if "fail" in sys.argv:
        fail("{TEXT}")
    for _ in range(100_000 if "long" in sys.argv else 1):
        print("{TEXT}", flush=True)
"""
WHOLE = """
from dataclasses import dataclass
from softprompts.config.cli import cli
@dataclass
class Config:
    times: int
def main(run: Config) -> None:
    for _ in range(run.times):
        print("good", flush=run.times > 1)
cli(main)
"""


def run(shell: str, *flags: str, program: str = LIGHT, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program with the redirections of a shell."""
    command = f'"$0" -c "$1" {" ".join(flags)} {shell}'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, program], env=os.environ | environment, capture_output=True, timeout=120
    )


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"na\\xefve \\U0001f44d \\ud83d\n"),
        ({"PYTHONIOENCODING": "latin-1"}, b"na\xefve \\U0001f44d \\ud83d\n"),
        ({"PYTHONIOENCODING": "utf-8"}, "naïve 👍 \\ud83d\n".encode()),
        ({"LC_ALL": "C"}, "naïve 👍 \\ud83d\n".encode()),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"na\\xefve \\U0001f44d \\ud83d\n"),
    ],
)
def test_b8_every_character_is_shown_on_every_terminal(environment: dict[str, str], shown: bytes) -> None:
    done = run("", **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, b"")
    failed = run("", "fail", **environment)
    assert (failed.returncode, failed.stdout, failed.stderr) == (2, b"", b"error: " + shown)


@pytest.mark.parametrize(
    ("shell", "flags", "code"),
    [
        ("| head -1; exit ${PIPESTATUS[0]}", ("long",), 141),
        ("| true; exit ${PIPESTATUS[0]}", ("long",), 141),
        ("2>&1 | true; exit ${PIPESTATUS[0]}", ("long",), 141),
        (">&-", (), 0),
        ("2>&-", (), 0),
        ("<&- >&- 2>&-", (), 0),
        ("2>&-", ("fail",), 2),
        (">&- 2>&-", ("fail",), 2),
        ("2> >(true); exit $?", ("fail",), 2),
    ],
)
def test_b16_closed_pipes_and_streams_end_quietly(shell: str, flags: tuple[str, ...], code: int) -> None:
    done = run(shell, *flags)
    assert (done.returncode, done.stderr) == (code, b"")


def test_b16_a_recipe_whose_reader_has_gone_ends_quietly() -> None:
    done = run("| head -1; exit ${PIPESTATUS[0]}", "--run.times 100000", program=WHOLE)
    assert (done.returncode, done.stdout, done.stderr) == (141, b"good\n", b"")


def test_b16_a_full_disk_behind_standard_output_is_one_line() -> None:
    done = run("> /dev/full", "--run.times 1", program=WHOLE)
    assert (done.returncode, done.stderr) == (2, b"error: No space left on device\n")


def given(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


def test_b8_lines_are_utf8_whatever_the_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, b"\xef\xbb\xbfcaf\xc3\xa9\r\n\n  \n two \xe2\x80\xa8 parts \rlast")
    assert lines_of_input() == ["café", " two \u2028 parts ", "last"]


def test_b8_bytes_that_are_not_utf8_name_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, b"good\n\ncaf\xe9 noir\n")
    with pytest.raises(UserError) as caught:
        lines_of_input()
    assert str(caught.value) == "standard input, line 3: not UTF-8 (byte 0xe9)"


def test_input_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "written").open("w") as file:
        monkeypatch.setattr(sys, "stdin", file)
        with pytest.raises(UserError, match=r"^standard input: "):
            lines_of_input()


def test_a_name_of_thousands_of_letters_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail(f"model.name_or_path: no such folder: ./{'a' * 5000}; name another")
    line = capsys.readouterr().err
    assert line == f"error: model.name_or_path: no such folder: ./{'a' * 94} ... name another\n"


def test_a_thread_that_keeps_its_error_shows_no_traceback() -> None:
    """TensorBoard's writer raises an error of its thread again in its caller, which reports it in one line."""
    program = """
import threading
from softprompts.system.streams import quiet_streams
class Writer(threading.Thread):
    exception = None
    def run(self):
        try:
            raise OSError(28, "the disk is full")
        except OSError as error:
            if self.name == "keeps":
                self.exception = error
            raise
with quiet_streams():
    for name in ("keeps", "loses"):
        thread = Writer(name=name)
        thread.start()
        thread.join()
"""
    done = run("", program=program)
    assert done.returncode == 0
    assert re.findall(rb"Exception in thread (\w+):", done.stderr) == [b"loses"]
