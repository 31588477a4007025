"""The benchmark's grid with real runs on the tiny model: killed between and within runs, it ends as if it were not."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import Benchmark, GridConfig, load_benchmark
from helpers import ROOT, recipe_environment

import pytest

pytestmark = pytest.mark.slow

MakeGrid = Callable[..., GridConfig]


def start(grid: Path, folder: Path) -> subprocess.Popen[str]:
    """Launch a grid as a user would."""
    flags = ["--launch.records", str(folder / "records"), "--launch.runs", str(folder / "runs")]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.grid", "--config", str(grid), *flags],
        cwd=ROOT,
        env=recipe_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there."""
    until = time.monotonic() + 300
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, f"no {pattern} in time"
        time.sleep(0.005)


def numbers(found: Benchmark) -> dict[str, Any]:
    """Return what must not depend on when a grid was stopped."""
    return {
        "answers": {m: {s: c.answers for s, c in cells.items()} for m, cells in found.cells.items()},
        "losses": {m: {s: c.result.test_loss for s, c in cells.items()} for m, cells in found.cells.items()},
        "chosen": {m: s["chosen"] for m, s in found.sweeps.items()},
        "rows": found.rows,
    }


def write_grid(file: Path, made: GridConfig) -> Path:
    """Write a grid's config."""
    file.write_text(json.dumps({"grid": asdict(made)}), encoding="utf-8")
    return file


def test_a_grid_killed_between_and_within_runs_ends_as_an_uninterrupted_one(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    made = make_grid(seeds=[0], name="tiny")
    made.training |= {"steps": 20, "eval_every": 1}
    del made.methods["written"]
    grid = write_grid(tmp_path / "grid.yaml", made)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    straight = start(grid, whole)
    said = straight.communicate(timeout=900)[0]
    assert straight.returncode == 0, said
    assert re.search(r"\[3/3\] prompt_tuning, seed 0: accuracy .*; 0 s left", said)

    process = start(grid, stopped)
    wait_for(stopped, "runs/tiny/prompt_tuning/sweep00/result.json", process)
    process.kill()  # between two points, or as the next begins: that one lives on, and holds its lock
    process.communicate(timeout=300)

    process = start(grid, stopped)
    wait_for(stopped, "runs/tiny/prompt_tuning/seed0/checkpoints/step-*", process)
    process.send_signal(signal.SIGTERM)  # within a run that this launch has begun
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped; the same command goes on" in said
    assert "Traceback" not in said
    assert not list(stopped.glob("records/tiny/prompt_tuning/seed0*"))

    process = start(grid, stopped)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    one, other = (load_benchmark(folder / "records" / "tiny") for folder in (whole, stopped))
    assert numbers(one) == numbers(other)
    assert one.missing == other.missing == []
    assert not list((whole / "runs").glob("*/*/seed*/checkpoints")), "recorded runs keep no checkpoints"


def test_the_probes_of_a_grid_measure_what_they_say(make_grid: MakeGrid, tmp_path: Path) -> None:
    made = make_grid(seeds=[0], probes=["forgetting", "latency", "transfer"], name="tiny")
    made.transfer = [{"label": ["positive"]}, {"label": ["negative"]}]
    made.methods["prompt_tuning"] = replace(made.methods["prompt_tuning"], sweep={})
    process = start(write_grid(tmp_path / "grid.yaml", made), tmp_path)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    one = load_benchmark(tmp_path / "records" / "tiny")
    probes = {method: cells[0].probes for method, cells in one.cells.items()}
    assert "forgetting" not in probes["written"], "nothing is trained"
    general = probes["prompt_tuning"]["forgetting"]["general"]
    assert general["detached"] == general["base"], "to the last bit"
    assert general["attached"] != general["base"]
    assert set(probes["prompt_tuning"]["forgetting"]["tasks"]) == {"sentiment", "home_commands", "docstrings"}
    assert probes["prompt_tuning"]["latency"]["virtual_tokens"] == 4
    for method, found in probes.items():  # the two halves of the rows that the run was tested on
        halves, accuracy = found["transfer"], one.cells[method][0].result.metrics["accuracy"].value
        assert [half["where"] for half in halves] == [{"label": ["positive"]}, {"label": ["negative"]}]
        right = sum(half["rows"] * half["metrics"]["accuracy"] for half in halves)
        assert right == pytest.approx(accuracy * sum(half["rows"] for half in halves))
