"""A grid on a Ray cluster ends as one without Ray, also if a node is removed or the launch is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import GridConfig, load_benchmark
from helpers import ROOT
from made_benchmark import numbers

import pytest

MakeGrid = Callable[..., GridConfig]
ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Return a cluster of two nodes on this machine, with one CPU each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()


def start(grid: GridConfig, folder: Path, *flags: str) -> subprocess.Popen[str]:
    """Launch a grid as a user would."""
    folder.mkdir(exist_ok=True)
    config = folder / "grid.yaml"
    config.write_text(json.dumps({"grid": asdict(grid)}), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.grid", "--config", str(config), *flags]
    command += ["--launch.records", str(folder / "records"), "--launch.runs", str(folder / "runs")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a launch to end well, and return its output."""
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> Path:
    """Wait until a file exists, and return it."""
    until = time.monotonic() + 300
    while not (found := sorted(folder.glob(pattern))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, f"no {pattern} in time"
        time.sleep(0.005)
    return found[0]


def test_a_grid_on_ray_survives_a_lost_node_and_a_stop(make_grid: MakeGrid, cluster: Any, tmp_path: Path) -> None:
    made = make_grid(seeds=[0, 1], name="tiny")
    made.training |= {"steps": 20, "eval_every": 1}
    plain, lost = tmp_path / "plain", tmp_path / "lost"
    finish(start(made, plain))

    second = cluster.add_node(num_cpus=1)
    flags = ("--workers.ray", cluster.address)
    process = start(made, lost, *flags)
    wait_for(lost, "runs/tiny/prompt_tuning/seed*/checkpoints/step-*", process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "stopped; the same command continues" in output
    assert "Traceback" not in output
    assert len(list(lost.glob("records/tiny/prompt_tuning/seed?.json"))) < 2

    process = start(made, lost, *flags)
    wait_for(lost, "runs/tiny/prompt_tuning/seed1/checkpoints/step-*", process)
    cluster.remove_node(second, allow_graceful=False)
    output = finish(process)
    assert ": failed: " not in output  # Ray itself may say that a task failed, and that it starts it again
    assert "jobs failed" not in output
    one, other = (load_benchmark(folder / "records" / "tiny") for folder in (plain, lost))
    assert numbers(one) == numbers(other)
    assert one.missing == other.missing == []


def test_a_cluster_that_is_too_small_is_one_line(make_grid: MakeGrid, cluster: Any, tmp_path: Path) -> None:
    process = start(make_grid(name="tiny"), tmp_path / "one", "--workers.ray", cluster.address, "--workers.gpus", "2")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 2
    assert output.splitlines()[-1] == "error: workers.gpus: 2 per job, and the cluster has 0"
