"""Cached tables: made once, never out of date, and in memory if the disk cannot store them."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

from softprompts.data import tables
from softprompts.data.tables import NotKept, Tables, Writer, key_of, make_tables

import pyarrow
import pytest

SCHEMAS = {"a": pyarrow.schema([("n", pyarrow.int64())])}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tables, "cache_folder", lambda: tmp_path / "cache")
    tables._warn_of_cache.cache_clear()
    return tmp_path / "cache"


class Make:
    """Writes the numbers 0 to 2 and counts how often."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls = 0
        self.seconds = seconds

    def __call__(self, writers: dict[str, Writer]) -> Any:
        self.calls += 1
        time.sleep(self.seconds)
        writers["a"].write([0, 1])
        writers["a"].write([2])
        return {"said": "something"}


def numbers(made: Tables) -> list[int]:
    return made.tables["a"]["n"].to_pylist()


def test_a_table_is_made_once_for_a_key(folder: Path) -> None:
    make = Make()
    for _ in range(2):
        made = make_tables("key", SCHEMAS, make)
        assert (numbers(made), made.notes, made.key) == ([0, 1, 2], {"said": "something"}, "key")
    assert make.calls == 1
    make_tables("other", SCHEMAS, make)
    assert make.calls == 2
    assert not list(folder.glob("*.tmp"))


def test_a_table_that_is_not_kept_leaves_no_file(folder: Path) -> None:
    make = Make()
    for _ in range(2):
        made = make_tables("key", SCHEMAS, make, keep=False)
        assert [p.name for p in folder.rglob("*")] == ["key.lock"]
        assert (numbers(made), made.notes, made.key) == ([0, 1, 2], {"said": "something"}, None)
        assert [batch["n"].to_pylist() for batch in made.batches("a", ["n"])] == [[0, 1, 2]]
    assert make.calls == 2


def test_without_a_key_nothing_is_written(folder: Path) -> None:
    assert numbers(make_tables(None, SCHEMAS, Make())) == [0, 1, 2]
    assert not folder.exists()


def test_keys_differ_in_whatever_they_are_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[tuple[Any, ...]] = [("a",), ("b",), (1,), (["a"],), ({"a": 1},), ("a", None)]
    keys = {key_of("kind", *each) for each in parts} | {key_of("other", "a")}
    assert len(keys) == len(parts) + 1
    monkeypatch.setattr(tables, "_code", lambda: "another version")
    assert key_of("kind", "a") not in keys


@pytest.mark.parametrize("module", ["data/values.py", "encoding/endings.py", "models/identity/outputs.py", "errors.py"])
def test_a_key_changes_with_any_module_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    package = tmp_path / "softprompts"
    shutil.copytree(Path(tables.__file__).parent.parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(tables, "__file__", str(package / "data" / "tables.py"))
    code = tables._code.__wrapped__
    before = code()
    assert code() == before
    with (package / module).open("a", encoding="utf-8") as file:
        file.write("\n# another rule\n")
    assert code() != before


@pytest.mark.parametrize("damage", [b"", b"ARROW1 and then nothing"])
def test_what_is_damaged_is_made_anew(folder: Path, damage: bytes) -> None:
    make = Make()
    make_tables("key", SCHEMAS, make)
    (folder / "key" / "a.arrow").write_bytes(damage)
    assert numbers(make_tables("key", SCHEMAS, make)) == [0, 1, 2]
    (folder / "key" / "notes.json").write_text('{"sizes"')
    assert numbers(make_tables("key", SCHEMAS, make)) == [0, 1, 2]
    assert make.calls == 3


def test_an_error_of_the_data_leaves_nothing(folder: Path) -> None:
    def fail(writers: dict[str, Writer]) -> Any:
        writers["a"].write([1])
        raise ValueError("line 3")

    with pytest.raises(ValueError, match="line 3"):
        make_tables("key", SCHEMAS, fail)
    assert [p.suffix for p in folder.iterdir()] in ([], [".lock"])


def test_what_cannot_be_kept_is_made_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    make = Make()

    def refuses(writers: dict[str, Writer]) -> Any:
        if writers["a"].kept:
            raise NotKept
        return make(writers)

    made = make_tables("key", SCHEMAS, refuses)
    assert (numbers(made), made.key) == ([0, 1, 2], None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("what", ["folder", "file", "batch", "end"])
def test_a_disk_that_takes_nothing_is_said_once(
    what: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    class Full:
        write_batch = full if what == "batch" else staticmethod(lambda _: None)
        close = full if what == "end" else staticmethod(lambda: None)

    if what == "folder":
        folder.write_text("a file is where the folder should be")
    else:
        monkeypatch.setattr(pyarrow.ipc, "new_file", full if what == "file" else lambda *_: Full())
    for _ in range(2):
        made = make_tables("key", SCHEMAS, Make())
        assert (numbers(made), made.key) == ([0, 1, 2], None)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {folder}: cannot be written (")


def test_of_two_that_ask_at_once_one_makes_it() -> None:
    """Threads, whose locks are separate, as between processes."""
    make, found = Make(seconds=0.3), []
    threads = [
        threading.Thread(target=lambda: found.append(numbers(make_tables("key", SCHEMAS, make)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, make.calls) == ([[0, 1, 2]] * 3, 1)
