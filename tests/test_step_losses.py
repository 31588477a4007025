"""The loss of every step of fixed runs equals the record: to the last bit here, within a tolerance elsewhere.

A change of structure must not change a loss. After an intended change, record them again:

    STEP_LOSSES=record .venv/bin/python -m pytest tests/test_step_losses.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from helpers import losses, main_in_process, read_result
from method_runs import LENGTH, METHODS, OPEN, short_command
from softprompts.reports import run as run_report

import pytest
import torch

RECORD = Path(__file__).with_suffix(".json")
DRIFT = 0.02  # another processor adds up in another order, and 50 steps of a random model carry that on
STEPS = {"training.steps": 50, "training.eval_every": 25}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt tuning": ("prompt_tuning", LENGTH),
    "prompt tuning, PEFT's own forward pass": ("prompt_tuning", LENGTH | {"model.engine": "stock"}),
    "prompt tuning, written answers": ("prompt_tuning", LENGTH | OPEN),
    "sweep": ("sweep", LENGTH | {"sweep.grid": "{training.learning_rate: [0.02, 0.05]}"}),
    **METHODS,
}


def machine() -> dict[str, str]:
    """Return the facts that must be equal for equal numbers to the last bit."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "model\t"))]
    return {
        "processor": " ".join(dict.fromkeys(names)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


@pytest.mark.parametrize("name", RUNS)
def test_the_losses_of_a_run_are_those_recorded(
    name: str,
    tiny_model: Path,
    tiny_task: Path,
    domain_task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, flags = RUNS[name]
    # A picture takes a large part of the time and does not affect the losses.
    monkeypatch.setattr(run_report, "plot_curves", lambda _, path: path.touch())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        task = domain_task if name == "multitask" else tiny_task
        command = short_command(recipe, tiny_model, task, tmp_path / "run", **(flags | STEPS))
        assert main_in_process(command) == 0
    finally:
        torch.set_num_threads(threads)
    found = losses(read_result(tmp_path / "run")["training"]["history"])
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if os.environ.get("STEP_LOSSES") == "record":
        kept = record.get("losses", {}) if record.get("machine") == machine() else {}
        lines = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in (kept | {name: found}).items())
        RECORD.write_text(f'{{"machine": {json.dumps(machine())},\n "losses": {{\n  {lines}\n }}}}\n')
        return
    expected = record["losses"][name]
    assert len(expected) >= STEPS["training.steps"]
    assert found == (expected if record["machine"] == machine() else pytest.approx(expected, rel=DRIFT))
