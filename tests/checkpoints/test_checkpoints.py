"""Checkpoints: exact, atomic, and never more of them than needed."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from made_checkpoints import OPTIMIZERS, Part, assert_equal
from softprompts.checkpoints import files as checkpoints
from softprompts.checkpoints.files import Restored, load_best, save_checkpoint
from softprompts.checkpoints.folders import SUMS
from softprompts.checkpoints.parameters import trainable_tensors
from softprompts.errors import UserError
from softprompts.runs.record import Progress

import pytest
from safetensors import SafetensorError


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    whole, first, second = Part(optimizer), Part(optimizer), Part(optimizer, seed=1)
    whole.train(0, 8)
    first.train(0, 3)
    first.save(tmp_path, 3, best=3)
    second.model[0].load_state_dict(first.model[0].state_dict())  # the frozen base comes from elsewhere
    restored = second.load(tmp_path)
    progress = Progress(step=3, best_step=3, best_value=-0.1, history=[{"step": 1, "loss": 1 / 3}])
    assert restored == Restored(progress, [])
    assert len(second.state()) > 4  # parameters and the optimizer's state of each
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
    assert {p.name for p in folder.iterdir()} == {"optimizer.safetensors", "state.json", "trainable.safetensors", SUMS}
    assert set(checkpoints.load_file(folder / "trainable.safetensors")) == {
        "1.weight",
        "1.bias",
        "2.weight",
        "2.bias",
    }


def test_keeps_the_last_the_one_before_it_and_the_best_of_both(tmp_path: Path) -> None:
    part = Part()
    kept = []
    for step, best in ((0, 0), (5, 5), (10, 5), (15, 5), (20, 20), (25, 20)):
        part.train(step, step + 1)
        part.save(tmp_path, step, best)
        kept.append(sorted(int(p.name.removeprefix("step-")) for p in tmp_path.iterdir()))
    assert kept == [[0], [0, 5], [5, 10], [5, 10, 15], [5, 15, 20], [20, 25]]


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
    part.save(tmp_path, 1, best=1)
    part.train(0, 1)
    part.save(tmp_path, 1, best=1)
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

    monkeypatch.setattr(f"softprompts.checkpoints.files.{place}", fail)
    with pytest.raises(UserError, match=r"step-000002: the disk is full; saved files are unharmed") as caught:
        part.save(tmp_path, 2, best=2)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    other = Part(seed=1)
    assert other.load(tmp_path) is not None
    assert_equal(other.state(), before)


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(KeyError):
        Part().save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EROFS, "Read-only file system"),
        SafetensorError("Error while serializing: I/O error: Read-only file system (os error 30)"),
    ],
)
def test_b12_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(UserError, match=r"step-000001: (Permission denied|Read-only file system)$"):
        Part().save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_state_is_strict_json(tmp_path: Path) -> None:
    part = Part()
    folder = save_checkpoint(
        tmp_path, model=part.model, optimizer=part.optimizer, scheduler=part.scheduler, progress=Progress()
    )
    assert json.loads((folder / "state.json").read_text())["progress"]["best_value"] is None
