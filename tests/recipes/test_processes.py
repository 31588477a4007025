"""A launch of several processes of which one hangs or ends: one line names it, and the run can resume."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from helpers import ROOT, error_lines, recipe_environment, run_recipe
from method_runs import LENGTH, short_command

import pytest

pytestmark = pytest.mark.slow
LAUNCH = ["-m", "accelerate.commands.launch", "--quiet", "--config_file", "configs/accelerate/multi_cpu.yaml"]


def processes_of(launcher: int) -> dict[int, int]:
    """Return the processes of a launch by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            rank = re.search(rb"(?:^|\0)RANK=(\d+)", (place / "environ").read_bytes())
        except OSError:  # it has ended meanwhile
            continue
        if parent == launcher and rank:
            found[int(rank[1])] = int(place.name)
    return found


@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGSTOP), (0, signal.SIGSTOP), (1, signal.SIGKILL)])
def test_a_process_that_is_lost_is_named_in_one_line(
    rank: int, number: signal.Signals, tiny_model: Path, domain_task: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    flags = LENGTH | {"training.steps": 400, "run.process_timeout": 5}
    command = short_command("prompt_tuning", tiny_model, domain_task, folder, **flags)
    environment = {"ACCELERATE_USE_CPU": "true"}
    launch = subprocess.Popen(
        [sys.executable, *LAUNCH, *command],
        cwd=ROOT,
        env=recipe_environment() | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 300
        while not (folder / "checkpoints" / "step-000008").is_dir():
            assert launch.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(processes_of(launch.pid)[rank], number)
        _, said = launch.communicate(timeout=120)
    finally:
        launch.kill()
    how = "has ended" if number == signal.SIGKILL else "does not respond"
    lines = [line for line in error_lines(said) if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert re.fullmatch(
        rf"error: process {rank} of 2 {how}( at step \d+)?; saved files are unharmed\. Look for .*, then --resume",
        lines[0],
    )
    assert launch.returncode != 0
    done = run_recipe([*command, "--training.steps", "400", "--resume"], **environment)
    assert done.returncode == 0, done.stderr
