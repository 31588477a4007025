"""The benchmark's grid with real runs on the tiny model: killed between and within runs, it ends as if it were not."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import jobs as jobs_module
from benchmarks.grid import __main__ as runner
from benchmarks.grid.settings import GridConfig, load_benchmark
from benchmarks.jobs import Process, WorkersConfig
from helpers import run_recipe, start_recipe
from made_benchmark import numbers
from warm import WarmProcess

import pytest

pytestmark = pytest.mark.slow

MakeGrid = Callable[..., GridConfig]
Finish = Callable[..., str]


def start(made: GridConfig, folder: Path) -> WarmProcess:
    """Launch a grid as a user would; its jobs are processes that the launch starts."""
    config = folder / "grid.yaml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"grid": asdict(made)}), encoding="utf-8")
    flags = ["--launch.records", str(folder / "records"), "--launch.runs", str(folder / "runs")]
    return start_recipe(["-mbenchmarks.grid", "--config", str(config), *flags])


def warm_job(process: Process) -> tuple[int, str]:
    """Do what `launched` does for a job that nobody stops, in a process that starts warm."""
    process.folder.mkdir(parents=True, exist_ok=True)
    done = run_recipe(process.arguments, ACCELERATE_MIXED_PRECISION=process.mixed_precision)
    return done.returncode, done.stderr


@pytest.fixture
def finish(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Finish:
    """Return a function that launches a grid in this process and returns what it said."""
    monkeypatch.setattr(jobs_module, "launched", warm_job)

    def run(made: GridConfig, folder: Path, **options: Any) -> str:
        launch = runner.LaunchConfig(str(folder / "records"), str(folder / "runs"), **options)
        runner.main(made, launch, WorkersConfig())
        return capsys.readouterr().out

    return run


def wait_for(folder: Path, pattern: str, process: WarmProcess) -> None:
    """Wait until a file is there."""
    until = time.monotonic() + 300
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, f"no {pattern} in time"
        time.sleep(0.005)


def test_a_grid_killed_between_and_within_runs_ends_as_an_uninterrupted_one(
    make_grid: MakeGrid, finish: Finish, tmp_path: Path
) -> None:
    made = make_grid(seeds=[0], name="tiny")
    made.training |= {"steps": 20, "eval_every": 1}
    del made.methods["written"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    said = finish(made, whole)
    assert re.search(r"\[3/3\] prompt_tuning, seed 0: accuracy .* %, .* in", said)

    process = start(made, stopped)
    wait_for(stopped, "runs/tiny/prompt_tuning/sweep00/result.json", process)
    process.kill()  # between two points, or as the next one begins, which ends with its launch
    process.communicate(timeout=300)

    process = start(made, stopped)
    wait_for(stopped, "runs/tiny/prompt_tuning/seed0/checkpoints/step-*", process)
    process.send_signal(signal.SIGTERM)  # within a run that this launch has begun
    said = "".join(process.communicate(timeout=300))
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped; the same command continues" in said
    assert "Traceback" not in said
    assert not list(stopped.glob("records/tiny/prompt_tuning/seed0*"))

    finish(made, stopped)
    one, other = (load_benchmark(folder / "records" / "tiny") for folder in (whole, stopped))
    assert numbers(one) == numbers(other)
    assert one.missing == other.missing == []
    assert not list((whole / "runs").glob("*/*/seed*/checkpoints")), "recorded runs keep no checkpoints"


def test_the_probes_of_a_grid_measure_what_they_say(make_grid: MakeGrid, finish: Finish, tmp_path: Path) -> None:
    made = make_grid(seeds=[0], probes=["forgetting", "latency", "transfer"], name="tiny")
    made.transfer = [{"label": ["positive"]}, {"label": ["negative"]}]
    made.methods["prompt_tuning"] = replace(made.methods["prompt_tuning"], sweep={})
    finish(made, tmp_path, probes=["forgetting"])
    first = {method: cells[0].probes for method, cells in load_benchmark(tmp_path / "records" / "tiny").cells.items()}
    finish(made, tmp_path)
    one = load_benchmark(tmp_path / "records" / "tiny")
    probes = {method: cells[0].probes for method, cells in one.cells.items()}
    assert "forgetting" not in probes["written"], "nothing is trained"
    for method, found in probes.items():
        assert found["what"] == ["forgetting", "latency", "transfer"]
        assert "latency" not in first[method]
        assert found.get("forgetting") == first[method].get("forgetting"), "measured by the first launch only"
    general = probes["prompt_tuning"]["forgetting"]["general"]
    assert general["detached"] == general["base"], "to the last bit"
    assert general["attached"] != general["base"]
    assert set(probes["prompt_tuning"]["forgetting"]["tasks"]) == {"sentiment", "home_commands", "docstrings"}
    for values in [general, *probes["prompt_tuning"]["forgetting"]["tasks"].values()]:
        rows = values["by_row"]
        assert len(rows["sums"]) == len(rows["counts"]) <= values["rows"]
        assert sum(rows["sums"]) / sum(rows["counts"]) == pytest.approx(values["attached"], abs=1e-6)
    assert probes["prompt_tuning"]["latency"]["virtual_tokens"] == 4
    for method, found in probes.items():  # the two halves of the rows that the run was tested on
        halves, accuracy = found["transfer"], one.cells[method][0].result.metrics["accuracy"].value
        assert [half["where"] for half in halves] == [{"label": ["positive"]}, {"label": ["negative"]}]
        for half in halves:
            same = [a == t for a, t in zip(half["answers"], half["targets"], strict=True)]
            assert sum(same) / half["rows"] == pytest.approx(half["metrics"]["accuracy"])
        right = sum(half["rows"] * half["metrics"]["accuracy"] for half in halves)
        assert right == pytest.approx(accuracy * sum(half["rows"] for half in halves))
