"""The processes that benchmarks start: how they are stopped, and how their failures are reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.jobs import Process, WorkersConfig, launched, run_jobs
from helpers import ROOT
from softprompts.errors import UserError

import psutil
import pytest


@pytest.mark.parametrize("code", [0, 130])
def test_a_signal_ends_the_launch_even_if_the_run_has_just_ended(tmp_path: Path, code: int) -> None:
    handler = f"signal.signal(signal.SIGINT, lambda *_: sys.exit({code}))"
    script = f"import signal, sys, time; {handler}; print(1, flush=True); time.sleep(60)"

    def stop() -> None:
        log = tmp_path / "seed0.log.txt"
        while not (log.is_file() and log.read_text(encoding="utf-8")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    with pytest.raises(SystemExit) as ended:
        launched(Process(["-c", script], tmp_path / "seed0"))
    assert ended.value.code == 130


@pytest.mark.parametrize(("instructions", "named"), [(True, "bf16"), (False, "no")])
def test_the_mixed_precision_of_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instructions: bool, named: str
) -> None:
    monkeypatch.setattr("softprompts.models.loading.has_bfloat16_instructions", lambda: instructions)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    script = "import os; print(os.environ['ACCELERATE_MIXED_PRECISION'])"
    assert launched(Process(["-c", script], tmp_path / "seed0", "auto")) == (0, named)
    assert launched(Process(["-c", script], tmp_path / "seed1", "fp16")) == (0, "fp16")


def test_a_failed_run_is_reported_by_its_last_line(tmp_path: Path) -> None:
    assert launched(Process(["-c", "import sys; sys.exit('error: no')"], tmp_path / "seed0")) == (1, "error: no")
    script = "import os; os.kill(os.getpid(), 9)"
    assert launched(Process(["-c", script], tmp_path / "seed0")) == (-9, "killed by SIGKILL")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_run_ends_if_its_launch_is_killed(tmp_path: Path) -> None:
    run = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    script = "import sys; from pathlib import Path; from benchmarks.jobs import Process, launched\n"
    script += "launched(Process(['-c', sys.argv[1]], Path(sys.argv[2])))"
    launch = subprocess.Popen([sys.executable, "-c", script, run, str(tmp_path / "seed0")], cwd=ROOT)
    log, until = tmp_path / "seed0.log.txt", time.monotonic() + 60
    while not (log.is_file() and log.read_text(encoding="utf-8").endswith("\n")):
        assert time.monotonic() < until
        time.sleep(0.01)
    launch.kill()
    launch.wait()
    process = int(log.read_text(encoding="utf-8"))
    while psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_job_that_cannot_run_is_kept_as_failed() -> None:
    kept = []
    run_jobs(["a"], lambda _: "its sweep failed", lambda *outcome: kept.append(outcome), WorkersConfig())
    assert kept == [("a", 1, "its sweep failed")]


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^workers\.ray: requires Ray; install it: in a clone, pip install"):
        run_jobs(["a"], lambda _: None, lambda *_: None, WorkersConfig(ray="auto"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"no cluster at 127\.0\.0\.1:1: .*refused"),
        ("127.0.0.1:99999", r"no cluster at 127\.0\.0\.1:99999: "),
        ("Auto", 'expected auto or HOST:PORT, found "Auto"'),
        ("ray://10.0.0.1:10001", "expected auto or HOST:PORT, found "),
    ],
)
def test_a_cluster_that_does_not_exist_is_one_line(address: str, message: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(UserError, match=rf"^workers\.ray: {message}"):
        run_jobs(["a"], lambda _: None, lambda *_: None, WorkersConfig(ray=address))
