"""Layers sharded over two processes: the weights, results, messages and files of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import FSDP, run_together
from sharding_cases import loss_and_gradient

import pytest

pytestmark = pytest.mark.slow


def in_each(name: str, *words: Any, processes: int = 2) -> list[Any]:
    """Run a case in each process; return their outputs, in their order."""
    done = run_together(["tests/support/sharding_cases.py", name, *map(str, words)], processes, **FSDP)
    assert done.returncode == 0, done.stderr
    said: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("engine", ["packed", "stock"])
def test_loss_and_gradient_are_those_of_one_process_to_the_last_bit(tiny_model: Path, engine: str) -> None:
    alone = loss_and_gradient(str(tiny_model), engine)
    assert in_each("loss_and_gradient", tiny_model, engine) == [alone, alone]


def test_a_process_holds_its_share_of_the_layers(tiny_model: Path) -> None:
    for count in (2, 4):
        for said in in_each("held", tiny_model, processes=count):
            assert said["here"] * count == said["layers"]
            assert said["whole"]


def test_only_the_gradient_of_the_soft_prompt_is_sent_beside_the_weights(tiny_model: Path) -> None:
    for said in in_each("traffic", tiny_model):
        loss = 4
        assert said["all_reduce"] == said["prompt"] + loss
        assert set(said) == {"all_reduce", "all_gather_single", "prompt"}


def test_a_checkpoint_keeps_the_rows_of_every_process(tiny_model: Path, tmp_path: Path) -> None:
    assert in_each("checkpoint", tiny_model, tmp_path / "checkpoints") == [True, True]


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_an_optimizer_of_whole_matrices_is_refused(tiny_model: Path, name: str) -> None:
    for said in in_each("optimizer_refused", tiny_model, name):
        assert said.startswith(f"training.optimizer: {name} computes with whole matrices")
        assert said.endswith("; use adamw")


def test_processes_make_as_many_passes_as_they_need(tiny_model: Path) -> None:
    assert in_each("different_numbers_of_passes", tiny_model) == [[1, 4, 1]] * 2
