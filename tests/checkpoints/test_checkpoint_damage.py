"""Checkpoints that are damaged, of another version or another model, and folders that only look like checkpoints."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_checkpoints import Part, assert_equal
from softprompts.checkpoints.files import load_best
from softprompts.checkpoints.folders import SUMS, sha256_of
from softprompts.checkpoints.parameters import trainable_tensors
from softprompts.errors import UserError

import pytest
import torch

FILES = ("state.json", "trainable.safetensors", "optimizer.safetensors")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """Flip one bit of the content: of a number in JSON, or of a weight after the header of safetensors."""
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(bytes(data))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def take_away(file: Path) -> None:
    file.unlink()


DAMAGES = [cut, flip, empty, take_away]


def two(folder: Path, best: int = 1) -> tuple[Part, list[Any]]:
    """Save steps 1 and 2 and return the trained part, and its state at step 1."""
    part = Part()
    part.train(0, 1)
    part.save(folder, 1, best=1)
    before = part.state()
    part.train(1, 2)
    part.save(folder, 2, best=best)
    return part, before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_b11_a_damaged_checkpoint_falls_back_to_the_one_before_it(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    _, before = two(tmp_path, best=2)
    damage(tmp_path / "step-000002" / name)
    other = Part(seed=1)
    restored = other.load(tmp_path)
    assert restored
    assert restored.progress.step == 1
    assert_equal(other.state(), before)
    (note,) = restored.notes
    assert note.startswith("going on from step-000001, an earlier checkpoint: ")
    assert "step-000002" in note.partition(": ")[2]
    other.train(1, 2)
    other.save(tmp_path, 2, best=2)
    again = Part(seed=2).load(tmp_path)
    assert again
    assert (again.progress.step, again.notes) == (2, [])


def test_b11_where_the_best_is_damaged_it_goes_on_from_before_it(tmp_path: Path) -> None:
    part, _ = two(tmp_path, best=2)
    part.save(tmp_path, 3, best=2)
    part.save(tmp_path, 4, best=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000003", "step-000004"]
    flip(tmp_path / "step-000004" / "trainable.safetensors")
    restored = Part(seed=1).load(tmp_path)
    assert restored
    assert (restored.progress.step, restored.progress.best_step) == (3, 2), "with a best one that is there"
    flip(tmp_path / "step-000002" / "trainable.safetensors")
    with pytest.raises(UserError, match=r"^--resume: no checkpoint in .* is whole: ") as caught:
        Part(seed=1).load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, "[" * 3000 + "]" * 3000),
        (None, "null"),
        ("optimizer", {}),
        ("optimizer", {"numbers": {}, "param_groups": []}),
        ("optimizer", {"numbers": {"x": {}}, "param_groups": [{"params": [0]}]}),
        ("optimizer", {"numbers": {}, "param_groups": [{"params": [0]}]}),
        ("scheduler", {}),
        ("progress", {"step": 2, "best_step": 2, "best_value": "x"}),
        ("progress", {"step": 2, "best_step": 2, "best_value": 1.0, "history": 5}),
        ("inputs", {}),
        ("inputs", "x"),
        ("inputs", []),
        ("inputs", {"data": {}, "base": {}, "schema": None, "metrics": {}, "code": {}}),
    ],
)
def test_content_that_no_run_wrote_is_damage_though_its_checksum_is_right(
    tmp_path: Path, key: str | None, value: Any
) -> None:
    _, before = two(tmp_path)
    place = tmp_path / "step-000002"
    state = place / "state.json"
    old = sha256_of(state)
    state.write_text(value if key is None else json.dumps(json.loads(state.read_text()) | {key: value}))
    (place / SUMS).write_text((place / SUMS).read_text().replace(old, sha256_of(state)))
    other = Part(seed=1)
    restored = other.load(tmp_path, {"data": {}})
    assert restored
    assert restored.progress.step == 1
    assert "state.json of step-000002 is damaged" in restored.notes[-1]
    assert_equal(other.state(), before)


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_a_folder_in_place_of_a_file_stays_and_stops_nothing(tmp_path: Path, name: str) -> None:
    two(tmp_path, best=2)
    file = tmp_path / "step-000002" / name
    file.unlink()
    file.mkdir()
    (file / "mine.txt").write_text("mine")
    part = Part(seed=1)
    restored = part.load(tmp_path)
    assert restored
    assert restored.progress.step == 1
    for step in (2, 3, 4):
        part.train(step - 1, step)
        part.save(tmp_path, step, best=step)
    assert [place.read_text() for place in tmp_path.rglob("mine.txt")] == ["mine"]
    again = Part(seed=2).load(tmp_path)
    assert again
    assert again.progress.step == 4


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_b11_if_none_is_whole_it_is_one_line_and_nothing_is_deleted(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    two(tmp_path)
    for step in (1, 2):
        damage(tmp_path / f"step-00000{step}" / name)
    before = contents(tmp_path)
    part = Part(seed=1)
    untouched = part.state()
    with pytest.raises(UserError, match=r"^--resume: no checkpoint in .* is whole: .*; nothing was deleted$"):
        part.load(tmp_path)
    assert contents(tmp_path) == before
    assert_equal(part.state(), untouched)


def test_b11_a_best_checkpoint_damaged_meanwhile_is_one_line(tmp_path: Path) -> None:
    part, _ = two(tmp_path)
    flip(tmp_path / "step-000001" / "trainable.safetensors")
    with pytest.raises(UserError, match=r"the best checkpoint is not whole: trainable\.safetensors of step-000001"):
        load_best(tmp_path, part.model, 1)


def as_version_1(place: Path) -> None:
    """Rewrite a checkpoint as the first version did: no format, no checksums, no fingerprints."""
    (place / SUMS).unlink()
    record = json.loads((place / "state.json").read_text())
    del record["format"], record["inputs"]
    (place / "state.json").write_text(json.dumps(record))


def test_a_checkpoint_of_the_first_version_still_loads(tmp_path: Path) -> None:
    part, _ = two(tmp_path)
    for step in (1, 2):
        as_version_1(tmp_path / f"step-00000{step}")
    other = Part(seed=1)
    restored = other.load(tmp_path, {"data": {}})
    assert restored
    assert restored.progress.step == 2
    assert_equal(other.state(), part.state())
    assert "holds no fingerprints" in restored.notes[0]
    for name in FILES[1:]:
        cut(tmp_path / "step-000002" / name)
    restored = Part(seed=1).load(tmp_path)
    assert restored
    assert restored.progress.step == 1


def rewrite(place: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON of a checkpoint without checksums."""
    as_version_1(place)
    record = json.loads((place / "state.json").read_text())
    change(record)
    (place / "state.json").write_text(json.dumps(record))


def test_progress_with_more_or_fewer_fields_loads(tmp_path: Path) -> None:
    Part().save(tmp_path, 1, best=1)

    def change(record: dict[str, Any]) -> None:
        record["progress"]["of_a_newer_version"] = 5
        del record["progress"]["cpu_seconds"]

    rewrite(tmp_path / "step-000001", change)
    restored = Part().load(tmp_path)
    assert restored
    assert (restored.progress.step, restored.progress.cpu_seconds) == (1, 0.0)


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    Part().save(tmp_path, 1, best=1)
    rewrite(tmp_path / "step-000001", lambda record: record.update(format=99))
    with pytest.raises(UserError, match="a newer version of softprompts wrote this checkpoint"):
        Part().load(tmp_path)


def test_c2_every_trainable_tensor_must_be_in_the_file(tmp_path: Path) -> None:
    part, _ = two(tmp_path)
    tensors = trainable_tensors(part.model)
    for change, message in (
        ({"1.weight": torch.zeros(1, 6)}, r"1\.weight is \(1, 6\) there and \(3, 6\) here"),
        ({"renamed": torch.zeros(1)}, r"renamed is \(1,\) there and missing here"),
    ):
        with pytest.raises(UserError, match=f"the checkpoint does not fit the model: {message}"):
            part.put_back(tensors | change)
    with pytest.raises(UserError, match=r"1\.bias is missing there and \(3,\) here"):
        part.put_back({k: v for k, v in tensors.items() if k != "1.bias"})


def test_c2_a_parameter_that_was_renamed_since_is_one_line(tmp_path: Path) -> None:
    Part().save(tmp_path, 1, best=1)
    part = Part(seed=1)
    part.model = torch.nn.Sequential(OrderedDict(zip("xyz", part.model, strict=True)))
    before = part.state()
    with pytest.raises(UserError, match=r"^the checkpoint does not fit the model: 1\.bias is \(3,\) there and missing"):
        part.load(tmp_path)
    assert_equal(part.state(), before)


def test_a_kill_while_a_checkpoint_is_deleted_leaves_nothing_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, _ = two(tmp_path, best=2)
    original = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "step-000001" and path.name == "optimizer.safetensors":
            raise RuntimeError("killed")
        original(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(RuntimeError, match="killed"):
        part.save(tmp_path, 3, best=2)
    monkeypatch.undo()
    part.save(tmp_path, 4, best=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000003", "step-000004"]


def test_b10_copies_and_other_files_of_a_user_are_never_loaded_or_deleted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    two(tmp_path)
    newest = tmp_path / "step-000002"
    for name in ("step-000002-backup", "step-000001-keep", "step-000009 copy", "step-9", "step-0000009", "step-latest"):
        shutil.copytree(newest, tmp_path / name)
    shutil.copytree(newest, tmp_path / "step-000007")  # a copy under a name that a checkpoint may have
    (tmp_path / "step-000008").mkdir()
    (tmp_path / "step-000008" / "thesis.txt").write_text("mine")
    (tmp_path / "step-000006").symlink_to(newest)
    (tmp_path / "step-000005").write_text("a file")
    (tmp_path / ".step-000001.old.tmp").mkdir()
    (tmp_path / ".step-000003.4711.tmp").mkdir()
    (tmp_path / ".step-000003.4711.tmp" / "notes.md").write_text("mine")
    (tmp_path / "step-000001" / "notes.md").write_text("mine")
    (tmp_path / "notes.md").write_text("mine")
    before = contents(tmp_path)
    other = Part(seed=1)
    restored = other.load(tmp_path)
    assert restored
    assert restored.progress.step == 2
    assert "step-000007 is a copy of step 2" in restored.notes[0]
    for step in (3, 4, 5, 6, 7, 8):
        other.save(tmp_path, step, best=step)
    after = contents(tmp_path)
    ours = {f"step-{step:06d}/{file}" for step in (1, 2) for file in (*FILES, SUMS)}
    moved = {name: name.replace("/", ".kept-1/", 1) for name in before if name[:11] in ("step-000007", "step-000008")}
    moved["step-000005"] = "step-000005.kept-1"
    for name, content in before.items():
        if name not in ours:
            assert after[moved.get(name, name)] == content, name
    assert (tmp_path / "step-000006.kept-1").is_symlink()
    assert "step-000008 is not a checkpoint of this run: moved to step-000008.kept-1\n" in capfd.readouterr().err
    restored = Part().load(tmp_path)
    assert restored
    assert restored.progress.step == 8
