"""The benchmark of memory: processes that share out a base model hold less of it than one alone."""

from __future__ import annotations

import re
import subprocess
import sys

from helpers import ROOT

import pytest


@pytest.mark.slow
def test_two_processes_hold_less_than_one() -> None:
    """The C library once kept the weights of every layer that a process had gathered and freed."""
    command = [sys.executable, "-m", "benchmarks.sharding", "--layers", "10", "--processes", "1", "--processes", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    shares = [float(share) for share in re.findall(r", (\d\.\d+) of one$", done.stdout, re.MULTILINE)]
    assert shares[0] == 1
    assert 0.5 < shares[1] < 0.85, "half of the layers, the embeddings, and a layer at a time"
