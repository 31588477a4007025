"""The remaining processes of a launch name a lost one; all other errors are unchanged."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from helpers import ROOT, recipe_environment
from softprompts.system import processes
from softprompts.system.processes import lost_process, tell_step
from warm import WarmProcess

import pytest
import torch

TIMEOUT = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 4000ms for recv operation")
CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:51812")


class Store:
    """A store in this process."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.kept[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.kept[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.kept for key in keys)

    def set_timeout(self, _: Any) -> None:
        pass


class GoneStore(Store):
    def set(self, key: str, value: str) -> None:
        raise RuntimeError("TCPStore: Broken pipe")


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Store:
    """Stand for rank 1 of 4 processes, each the first one of its machine."""
    store = Store()
    for key, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(processes, "PATIENCE", 0.3)
    monkeypatch.setattr(processes.signal, "signal", lambda *_: None)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    return store


@pytest.mark.parametrize(("error", "how"), [(TIMEOUT, "does not respond"), (CLOSED, "has ended")])
def test_those_that_do_not_report_are_lost(launch: Store, error: RuntimeError, how: str) -> None:
    launch.set("softprompts/alive/0", "")
    tell_step(12)
    reports = threading.Timer(0.1, launch.set, ("softprompts/alive/3", ""))
    reports.start()
    line = lost_process(error)
    reports.join()
    assert line == f"process 2 of 4 {how} at step 12; saved files are unharmed. Look for its own error, then --resume"


def test_where_the_store_is_gone_the_first_process_is_lost(launch: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", GoneStore)
    assert str(lost_process(TIMEOUT)).startswith("process 0 of 2 does not respond; ")


def test_a_stopped_process_that_keeps_the_store_is_lost(launch: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection stays open, and its answer never comes."""
    never = threading.Event()

    def check(_: list[str]) -> bool:
        never.wait(60)
        raise RuntimeError("TCPStore: Connection reset by peer")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(launch, "check", check)
    assert str(lost_process(TIMEOUT)).startswith("process 0 of 2 does not respond; ")
    never.set()


@pytest.mark.parametrize(("others", "said"), [(["2", "3"], True), (["0", "3"], False)])
def test_one_process_says_it_where_the_first_of_the_machine_cannot(
    launch: Store, others: list[str], said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    for rank in others:
        launch.set(f"softprompts/alive/{rank}", "")
    assert lost_process(TIMEOUT)
    assert ("error: process " in capsys.readouterr().err) is said


def test_other_errors_and_runs_of_one_process_stay_what_they_are(
    launch: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lost_process(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")) is None
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert lost_process(TIMEOUT) is None
    tell_step(1)
    assert launch.kept == {}


ENDS = '''
import atexit, sys
import torch
from softprompts.errors import Interrupted, UserError
from softprompts.runs.command import cli


def main() -> None:
    """Meet the other processes, of which there are none, and end."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    torch.distributed.all_reduce(torch.ones(1))
    atexit.register(print, "exit function")
    print("main")
    {end}


sys.argv = sys.argv[:1]
cli(main)
print("not reached")
'''


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("pass", 0, ""),
        ("raise UserError('key: wrong')", 2, "error: key: wrong"),
        ("raise Interrupted('stopped', 15)", 143, ""),
        ("raise LookupError('a bug')", 1, "LookupError: a bug"),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('a text')", 1, "a text"),
    ],
)
def test_a_process_that_has_met_others_ends_at_once_with_its_code(
    end: str, code: int, said: str, tmp_path: Path
) -> None:
    script = tmp_path / "recipe.py"
    script.write_text(ENDS.replace("{end}", end), encoding="utf-8")
    process = WarmProcess([str(script)], ROOT, recipe_environment())
    assert process.wait(120) == code
    out, err = process.communicate()
    assert [line for line in out.splitlines() if line != "stopped"] == ["main", "exit function"]
    assert said in err
    assert ("Traceback" in err) is ("a bug" in said)
