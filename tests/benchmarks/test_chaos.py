"""The fault benchmark: its trials find lost work, and its record becomes the site's table."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from benchmarks.chaos import __main__ as program, faults
from benchmarks.chaos.subject import left_by, make_subject
from benchmarks.chaos.trial import BrokenError, Trial, Undisturbed
from helpers import ROOT
from scripts.build_docs import results

import pytest


def made(folder: Path, weights: bytes = b"w", answers: bytes = b"a") -> Path:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(weights)
    (folder / "predictions.jsonl").write_bytes(answers)
    (folder / "result.json").write_text("{}", encoding="utf-8")
    return folder


def trial(folder: Path) -> Trial:
    undisturbed = {"single": Undisturbed((b"w", b"a"), 1.0, 9)}
    return Trial(random.Random(0), 0, 1, folder, folder / "subject", undisturbed)


def test_what_equals_an_undisturbed_run_holds(tmp_path: Path) -> None:
    made(trial(tmp_path).output)
    trial(tmp_path).compare()


@pytest.mark.parametrize(
    ("weights", "answers", "extra", "said"),
    [
        (b"x", b"a", "", "other weights"),
        (b"w", b"x", "", "other answers"),
        (b"w", b"a", ".result.1.tmp.json", "left over: "),
    ],
)
def test_what_differs_is_found(tmp_path: Path, weights: bytes, answers: bytes, extra: str, said: str) -> None:
    output = made(trial(tmp_path).output, weights, answers)
    if extra:
        (output / extra).touch()
    with pytest.raises(BrokenError, match=said):
        trial(tmp_path).compare()


@pytest.mark.parametrize(("room", "full"), [(2**19, True), (2**24, False)])
def test_a_process_without_room_for_small_objects_is_recognised(room: int, full: bool) -> None:
    program = f"""
import resource, sys
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + {room}, now + {room}))
print("limited", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"limited\n"
        assert faults._without_memory(process.pid) == full
        process.kill()


def test_a_run_without_its_result_is_found(tmp_path: Path) -> None:
    (made(trial(tmp_path).output) / "result.json").unlink()
    assert left_by(trial(tmp_path).output) is None
    with pytest.raises(BrokenError, match="there is no result"):
        trial(tmp_path).compare()


def test_the_subject_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_subject(tmp_path / name)
    files = [p.relative_to(tmp_path / "one") for p in sorted((tmp_path / "one").rglob("*")) if p.is_file()]
    assert len(files) > 5
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_the_record_counts_and_the_page_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "RECORD", tmp_path / "chaos.json")
    done = [
        {"fault": "damage", "number": n, "times": 1, "outcome": "fine", "broken": "", "seconds": 1.0} for n in range(3)
    ]
    done.append({"fault": "nan", "number": 0, "times": 1, "outcome": "", "broken": "lost", "seconds": 1.0})
    program._write(done, 0)
    record = json.loads((tmp_path / "chaos.json").read_text(encoding="utf-8"))
    assert (record["trials"], record["failed"]) == (4, 1)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    table = results.chaos()
    assert "3 x fine" in table
    assert "1 x failed: lost" in table


@pytest.mark.slow
@pytest.mark.skipif(
    bool(subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode),
    reason="file systems of a few pages need `unshare --mount`",
)
def test_nothing_is_lost(tmp_path: Path) -> None:
    names = [
        "kill_single",
        "kill_two",
        "sigterm_test",
        "disk_space",
        "read_only",
        "memory",
        "damage",
        "two_runs",
        "nan",
    ]
    only = [word for name in names for word in ("--only", name)]
    command = [sys.executable, "-m", "benchmarks.chaos", "--share", "0.02", "--folder", str(tmp_path), *only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tried = [json.loads(line) for line in (tmp_path / "seed-0.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {one["fault"] for one in tried} == set(names)
