"""The energy of training: measured if requested, and always for the whole training."""

from __future__ import annotations

import importlib.util

from helpers import Build, run_training
from softprompts.config.methods import PromptConfig
from softprompts.config.sections import RunConfig, TrainingConfig
from softprompts.errors import UserError
from softprompts.runs.record import Progress
from softprompts.sweeps.grid import SweepConfig, grid_of

import pytest


def test_a_run_records_its_energy_if_it_was_not_stopped(make: Build) -> None:
    assert (run_training(make("measured", energy=True)).energy_kwh or 0) > 0
    assert run_training(make("not measured")).energy_kwh is None
    again = make("measured", resume=True, energy=True)
    assert run_training(again).energy_kwh is None, "the part before the stop is not known"


def test_stages_add_up_if_both_are_known() -> None:
    assert Progress(energy_kwh=1.0).followed_by(Progress(energy_kwh=0.5)).energy_kwh == 1.5
    assert Progress(energy_kwh=1.0).followed_by(Progress()).energy_kwh is None
    assert Progress().followed_by(Progress(energy_kwh=0.5)).energy_kwh is None
    assert Progress(cpu_seconds=1.0).followed_by(Progress(cpu_seconds=2.0)).cpu_seconds == 3.0


def test_without_codecarbon_it_is_refused(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(
        "softprompts.training.checks.find_spec", lambda name: None if name == "codecarbon" else original(name)
    )
    with pytest.raises(UserError, match=r"training\.energy: codecarbon is not installed; run `pip install codecarbon`"):
        run_training(make(energy=True))


def test_a_sweep_refuses_it() -> None:
    training = TrainingConfig(energy=True)
    with pytest.raises(UserError, match=r"training\.energy: the candidates of a sweep share forward passes"):
        grid_of(SweepConfig({"run.seed": [0, 1]}), {"prompt": PromptConfig()}, training, RunConfig("run"))
