"""The serving benchmark: times of arrival, equal answers of all ways, and no repetition of recorded cells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.serving import __main__ as runner, soak
from benchmarks.serving.loads import Load, Request, drawn
from helpers import ROOT
from softprompts.errors import UserError

import pytest

REQUESTS = [Request("movies", number, (1, 2, number)) for number in range(6)]


def test_clients_ask_again_once_they_are_answered() -> None:
    load = Load(REQUESTS, clients=2)
    first = load.due(0.0)
    assert [one.request.number for one in first] == [0, 1]
    assert (load.due(9.0), load.pause(9.0)) == ([], None)
    first[1].over = 3.0
    load.finish(first[1])
    assert [(one.request.number, one.arrived) for one in load.due(3.0)] == [(2, 3.0)]


def test_arrivals_at_random_have_their_rate_and_do_not_wait_for_answers() -> None:
    load = Load(REQUESTS * 300, rate=4.0)
    found = load.due(1e9)
    assert len(found) == 1800
    assert found[-1].arrived == pytest.approx(1800 / 4, rel=0.1)
    assert [one.arrived for one in Load(REQUESTS * 300, rate=4.0).due(1e9)] == [one.arrived for one in found]


def test_each_text_is_drawn_as_often_as_any_other() -> None:
    numbers = [request.number for request in drawn(REQUESTS, 12, 0)]
    assert sorted(numbers) == sorted([*range(6)] * 2)
    assert numbers != [request.number for request in drawn(REQUESTS, 12, 1)]


def test_what_is_recorded_of_a_load() -> None:
    load = Load(REQUESTS[:4], rate=1.0)
    for number, one in enumerate(load.due(1e9)):
        one.arrived, one.first, one.over, one.tokens = 0.0, 0.5, number + 1.0, [number]
        load.finish(one)
    found = runner.told(load)
    assert (found["requests"], found["a_second"]) == (4, 1.0)
    assert (found["first"], found["latency"]) == ({"p50": 0.5, "p99": 0.5}, {"p50": 2.5, "p99": 4.0})
    assert len(set(found["answers"].values())) == 4


def test_a_rate_beyond_a_ways_saturation_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = object.__new__(runner.Bench)
    monkeypatch.setattr(runner.Bench, "saturation", lambda *_: 2.0)
    assert bench.at("ours", 1.95) == {"beyond": 1.95}


def test_a_recorded_cell_is_not_measured_again(tmp_path: Path) -> None:
    bench = object.__new__(runner.Bench)
    bench.record, bench.file = {"cells": {}}, tmp_path / "serving.json"
    measured = []
    for _ in range(2):
        found = bench.cell("memory", lambda: measured.append(1) or {"mib": len(measured)})
        assert found == {"mib": 1}
        bench.record = json.loads(bench.file.read_text(encoding="utf-8"))


def test_the_soak_tells_crossed_replies_from_right_ones() -> None:
    one, other, text = (soak.requests_for(task, t)[0].key for task, t in (("a", "x"), ("b", "x"), ("a", "y")))
    assert soak.same_text(one, other)
    assert not soak.same_text(one, text)
    assert soak.slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == 2.0
    assert soak.said({"choices": [{"delta": {"role": "assistant"}}]}) == ""


@pytest.mark.slow
def test_all_ways_answer_as_peft_does_alone(tiny_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.serving", "--quick", str(tmp_path), "--model", str(tiny_model)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    for label in ("this project", "this project, soft prompts computed again"):
        (line,) = [
            line for line in page.splitlines() if line.startswith(f"| {label} |") and " of " in line.split("|")[-2]
        ]
        same, _, of = line.split("|")[-2].strip().partition(" of ")
        assert same == of != "0"
    assert "this project over HTTP" in page
    assert not (json.loads((tmp_path / "memory.json").read_text())["loaded_mib"].keys() ^ {"1", "10", "100"})


def test_a_record_goes_on_only_on_the_machine_that_began_it(tmp_path: Path) -> None:
    record = runner.new_record(runner.Sizes())
    file = tmp_path / "serving.json"
    file.write_text(json.dumps(record), encoding="utf-8")
    assert runner.continued(file) == record
    record["environment"]["hardware"]["processor"] = "another"
    file.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=r"serving\.json was begun on another, but this machine is .*; remove the file"):
        runner.continued(file)
