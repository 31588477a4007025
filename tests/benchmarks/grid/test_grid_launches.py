"""The processes that the benchmark's grid starts: how they are stopped, and what is said of their failures."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from benchmarks.grid import __main__ as runner

import pytest


@pytest.mark.parametrize("code", [0, 130])
def test_a_stop_ends_the_launch_even_where_the_run_has_just_ended(tmp_path: Path, code: int) -> None:
    handler = f"signal.signal(signal.SIGINT, lambda *_: sys.exit({code}))"
    script = f"import signal, sys, time; {handler}; print(1, flush=True); time.sleep(60)"

    def stop() -> None:
        log = tmp_path / "seed0.log.txt"
        while not (log.is_file() and log.read_text(encoding="utf-8")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    with runner.claimed(tmp_path / "seed0") as lock:
        assert lock is not None
        with pytest.raises(SystemExit) as ended:
            runner.launched(["-c", script], tmp_path / "seed0", lock)
    assert ended.value.code == 130


def test_a_run_has_the_lock_its_precision_and_a_session_of_its_own(tmp_path: Path) -> None:
    with runner.claimed(tmp_path / "seed0") as lock:
        assert lock is not None
        held = f"os.fstat({lock}).st_ino == {os.fstat(lock).st_ino}"
        script = (
            f"import os; assert {held} and os.getsid(0) == os.getpid(); print(os.environ['ACCELERATE_MIXED_PRECISION'])"
        )
        assert runner.launched(["-c", script], tmp_path / "seed0", lock, "bf16") == (0, "bf16")


def test_a_failed_run_is_told_by_its_last_line(tmp_path: Path) -> None:
    with runner.claimed(tmp_path / "seed0") as lock:
        assert lock is not None
        assert runner.launched(["-c", "import sys; sys.exit('error: no')"], tmp_path / "seed0", lock) == (
            1,
            "error: no",
        )
        script = "import os; os.kill(os.getpid(), 9)"
        assert runner.launched(["-c", script], tmp_path / "seed0", lock) == (-9, "killed by SIGKILL")
