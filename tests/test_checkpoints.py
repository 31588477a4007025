"""Checkpoints: exact, atomic, and never more of them than needed."""

from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

from softprompts import checkpoints
from softprompts.checkpoints import (
    Progress,
    load_best,
    load_checkpoint,
    save_checkpoint,
    set_trainable,
    trainable_tensors,
    write_atomically,
)
from softprompts.errors import UserError

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import get_scheduler

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adafactor": torch.optim.Adafactor}


class Part:
    """A model with a frozen and two trainable layers, its optimizer and its schedule."""

    def __init__(self, optimizer: str = "adamw", seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3), nn.LayerNorm(3))
        self.model[0].requires_grad_(False)
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[optimizer](trainable, lr=0.1, weight_decay=0.01)
        self.scheduler = get_scheduler("linear", self.optimizer, 2, 20)

    def train(self, first: int, last: int) -> None:
        for step in range(first, last):
            torch.manual_seed(step)
            self.model(torch.randn(5, 4)).square().sum().backward()
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()

    def save(self, folder: Path, step: int, best: int = 0) -> Path:
        progress = Progress(step=step, best_step=best, best_value=-0.1, history=[{"step": 1, "loss": 1 / 3}])
        return save_checkpoint(folder, self.model, self.optimizer, self.scheduler, progress)

    def load(self, folder: Path) -> Progress | None:
        return load_checkpoint(folder, self.model, self.optimizer, self.scheduler)

    def state(self) -> list[Any]:
        optimizer = self.optimizer.state_dict()
        values = [v for _, state in sorted(optimizer["state"].items()) for _, v in sorted(state.items())]
        return [*trainable_tensors(self.model).values(), *copy.deepcopy(values)]


def assert_equal(left: list[Any], right: list[Any]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    whole, first, second = Part(optimizer), Part(optimizer), Part(optimizer, seed=1)
    whole.train(0, 8)
    first.train(0, 3)
    first.save(tmp_path, 3, best=2)
    second.model[0].load_state_dict(first.model[0].state_dict())  # the frozen base comes from elsewhere
    progress = second.load(tmp_path)
    assert progress == Progress(step=3, best_step=2, best_value=-0.1, history=[{"step": 1, "loss": 1 / 3}])
    assert len(second.state()) > 4  # parameters and what the optimizer keeps of each
    assert_equal(second.state(), first.state())
    assert second.scheduler.get_last_lr() == first.scheduler.get_last_lr()
    second.train(3, 8)
    assert_equal(second.state(), whole.state())
    assert second.scheduler.get_last_lr() == whole.scheduler.get_last_lr()
    assert second.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert Part().load(tmp_path) is None
    assert Part().load(tmp_path / "missing") is None


def test_only_safetensors_and_json_and_no_frozen_parameter(tmp_path: Path) -> None:
    part = Part()
    part.train(0, 1)
    folder = part.save(tmp_path / "new" / "checkpoints", 1)
    assert folder.name == "step-000001"
    assert sorted(p.name for p in folder.iterdir()) == ["optimizer.safetensors", "state.json", "trainable.safetensors"]
    assert set(checkpoints.load_file(folder / "trainable.safetensors")) == {
        "1.weight",
        "1.bias",
        "2.weight",
        "2.bias",
    }


def test_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    part = Part()
    kept = []
    for step, best in ((0, 0), (5, 5), (10, 5), (15, 5), (20, 20)):
        part.train(step, step + 1)
        part.save(tmp_path, step, best)
        kept.append(sorted(int(p.name.removeprefix("step-")) for p in tmp_path.iterdir()))
    assert kept == [[0], [5], [5, 10], [5, 15], [20]]


def test_the_newest_is_loaded_and_the_best_put_in_place(tmp_path: Path) -> None:
    part = Part()
    part.train(0, 1)
    part.save(tmp_path, 1, best=1)
    best = trainable_tensors(part.model)
    part.train(1, 2)
    part.save(tmp_path, 2, best=1)
    newest = trainable_tensors(part.model)
    other = Part(seed=1)
    assert other.load(tmp_path) is not None
    assert_equal(list(trainable_tensors(other.model).values()), list(newest.values()))
    load_best(tmp_path, other.model, 1)
    assert_equal(list(trainable_tensors(other.model).values()), list(best.values()))


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    """As after a validation and then a signal at one step."""
    part = Part()
    part.save(tmp_path, 1)
    part.train(0, 1)
    part.save(tmp_path, 1)
    other = Part(seed=1)
    other.load(tmp_path)
    assert_equal(other.state()[:4], part.state()[:4])


def test_leftovers_of_a_killed_writer_are_cleaned_and_never_loaded(tmp_path: Path) -> None:
    leftover = tmp_path / ".step-000009.4711.tmp"
    leftover.mkdir()
    (leftover / "state.json").write_text("{", encoding="utf-8")
    assert Part().load(tmp_path) is None
    Part().save(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("save_file", OSError(errno.ENOSPC, "No space left on device")),
        ("save_file", SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")),
        ("os.fsync", OSError(errno.EDQUOT, "Disk quota exceeded")),
    ],
)
def test_a_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    part = Part()
    part.train(0, 1)
    part.save(tmp_path, 1, best=1)
    before = part.state()
    part.train(1, 2)

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(f"softprompts.checkpoints.{place}", fail)
    with pytest.raises(UserError, match=r"step-000002: the disk is full; what was saved before is unharmed") as caught:
        part.save(tmp_path, 2, best=2)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    other = Part(seed=1)
    assert other.load(tmp_path) is not None
    assert_equal(other.state(), before)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "denied"), KeyError("a mistake of ours")])
def test_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(type(error)):
        Part().save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_trainable_tensors_are_copies_that_can_be_put_back() -> None:
    part = Part()
    before = trainable_tensors(part.model)
    part.train(0, 2)
    assert not torch.equal(before["1.weight"], part.model[1].weight)
    set_trainable(part.model, before)
    assert_equal(list(trainable_tensors(part.model).values()), list(before.values()))
    assert part.model[1].weight.requires_grad


def test_write_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    write_atomically(path, "new – naïve")
    assert path.read_text(encoding="utf-8") == "new – naïve"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_atomically(path, "half")
    assert path.read_text(encoding="utf-8") == "new – naïve"
    assert list(tmp_path.iterdir()) == [path]


def test_state_is_strict_json(tmp_path: Path) -> None:
    part = Part()
    folder = save_checkpoint(tmp_path, part.model, part.optimizer, part.scheduler, Progress())
    assert json.loads((folder / "state.json").read_text())["progress"]["best_value"] is None
