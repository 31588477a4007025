"""A folder has one owner, which need not end well to let it go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from softprompts.errors import UserError
from softprompts.system import locks
from softprompts.system.locks import LOCK, break_foreign, own, release

import pytest

HOLD = """
import sys, pathlib, time
from softprompts.system.locks import own
own(pathlib.Path(sys.argv[1]))
print("mine", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(locks, "PATIENCE", 0.3)
    yield
    release()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.wait()


def test_a10_a_folder_is_owned_until_it_is_given_up(tmp_path: Path) -> None:
    assert own(tmp_path)
    assert not own(tmp_path), "once is enough"
    assert f"pid={os.getpid()}\n" in (tmp_path / LOCK).read_text()
    release()
    assert list(tmp_path.iterdir()) == []
    assert own(tmp_path)


@pytest.mark.parametrize("stopped", [False, True])
def test_a10_a_living_owner_keeps_the_folder(tmp_path: Path, holder: subprocess.Popen[str], stopped: bool) -> None:
    if stopped:
        holder.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError) as caught:
        own(tmp_path)
    assert str(caught.value).startswith(f"run.output_dir: {tmp_path} is in use by process {holder.pid} on ")
    assert str(caught.value).endswith(f"If that process has ended, delete {tmp_path / LOCK}")
    assert f"pid={holder.pid}\n" in (tmp_path / LOCK).read_text()


def test_a10_a_killed_owner_gives_way_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    assert own(tmp_path)


def rewrite(tmp_path: Path, key: str, value: str) -> None:
    """Write a lock that names this process, except for one value."""
    own(tmp_path)
    lines = (tmp_path / LOCK).read_text().splitlines()
    release()
    changed = [f"{key}={value}" if line.startswith(f"{key}=") else line for line in lines]
    assert changed != lines
    (tmp_path / LOCK).write_text("\n".join(changed) + "\n")


def test_a10_another_process_under_the_same_number_is_no_owner(tmp_path: Path) -> None:
    rewrite(tmp_path, "start", "12345")
    assert own(tmp_path)


def test_a10_a_lock_of_another_host_is_kept_and_said(tmp_path: Path) -> None:
    rewrite(tmp_path, "host", "elsewhere")
    before = (tmp_path / LOCK).read_text()
    with pytest.raises(UserError, match=r"in use by process \d+ on elsewhere; .* delete .*\.run\.lock$"):
        own(tmp_path)
    assert (tmp_path / LOCK).read_text() == before


def test_a_foreign_lock_can_be_broken_and_one_of_this_host_cannot(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    break_foreign(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
        own(tmp_path)
    holder.kill()
    holder.wait()
    rewrite(tmp_path, "host", "elsewhere")
    break_foreign(tmp_path)
    assert own(tmp_path)
    break_foreign(tmp_path / "nowhere")


def test_a_folder_that_is_gone_is_given_up_in_peace(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    own(folder)
    (folder / LOCK).unlink()
    folder.rmdir()
    release()
    folder.mkdir()
    assert own(folder)
