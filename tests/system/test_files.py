"""Paths that a user names, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softprompts.errors import UserError
from softprompts.system.files import (
    building,
    check_new,
    expanded,
    filling,
    is_file,
    one_line,
    read_bytes,
    remove_leftovers,
    replacing,
    text_or_file,
    write_atomically,
)

import pytest
from safetensors import SafetensorError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the home folder, a variable for another folder, and an empty working folder."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.setenv("TILDE", "~/inside")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~", "HOME"),
        ("~/a/~b", "HOME/a/~b"),
        ("~root/x", "/root/x"),
        ("$SCRATCH/a", "/scratch/a"),
        ("${SCRATCH}/a$SCRATCH", "/scratch/a/scratch"),
        ("$TILDE/x", "HOME/inside/x"),
        ("a~b/c~", "a~b/c~"),
        ("costs $5/x$", "costs $5/x$"),
        ("bundled:smollm2-135m-instruct", "bundled:smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("train[:10%]", "train[:10%]"),
    ],
)
def test_c1_paths_expand_as_in_a_shell(home: Path, text: str, expected: str) -> None:
    assert expanded("k", text) == expected.replace("HOME", str(home))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$NOWHERE/a", 'k: the environment variable "NOWHERE" is not set: $NOWHERE/a'),
        ("a/${NOWHERE:-x}", 'k: the environment variable "NOWHERE:-x" is not set: a/${NOWHERE:-x}'),
        ("$EMPTY/a", 'k: the environment variable "EMPTY" is empty: $EMPTY/a'),
        ("~nosuchuser/a", "k: no home folder is known for ~nosuchuser: ~nosuchuser/a"),
        ("a\0b", "k: a path cannot hold a NUL character: 'a\\x00b'"),
    ],
)
def test_c1_what_cannot_be_expanded_is_one_line(home: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        expanded("k", text)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["price$USD.csv", "~backup.jsonl"])
def test_c1_a_file_of_such_a_name_stays_itself(home: Path, name: str) -> None:
    Path(name).touch()
    assert expanded("k", name) == name


def make_link(path: Path) -> None:
    path.symlink_to("gone")


def make_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(path.name)


def make_below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_link, ": is a link to gone, which does not exist"),
        (Path.mkdir, ": expected a file, found a folder"),
        (os.mkfifo, ": expected a file, found a pipe"),
        (make_socket, ": expected a file, found a socket"),
        (make_below_a_file, "is a file and not a folder"),
    ],
)
def test_b12_what_is_no_file_is_said(
    tmp_path: Path, make: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "data.jsonl"
    path.parent.mkdir()
    monkeypatch.chdir(path.parent)
    make(path)
    for look in (is_file, read_bytes):
        with pytest.raises(UserError) as caught:
            look(path)
        assert str(caught.value).startswith(str(path))
        assert message in str(caught.value)


def test_b12_odd_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="File name too long"):
        is_file(tmp_path / ("a" * 300))
    with pytest.raises(UserError, match=r"cannot be the path of a file"):
        is_file(Path("a\0b"))
    with pytest.raises(UserError, match="expected a file, found a device"):
        is_file(Path(os.devnull))
    assert not is_file(tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing: no such file"):
        read_bytes(tmp_path / "nothing")


def test_b12_a_file_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is made."""

    def denied(*_: Any, **__: Any) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "data.jsonl"
    path.touch()
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(UserError) as caught:
        read_bytes(path)
    assert str(caught.value) == f"{path}: Permission denied"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EROFS, "x"), "k: Read-only file system"),
        (
            OSError(errno.ENOSPC, "x"),
            "k: the disk is full; saved files are unharmed. Free space, then --resume",
        ),
        (SafetensorError("I/O error: Permission denied (os error 13)"), "k: Permission denied"),
    ],
)
def test_errors_of_the_system_are_one_line(error: Exception, message: str) -> None:
    with pytest.raises(UserError) as caught, one_line("k"):
        raise error
    assert str(caught.value) == message


@pytest.mark.parametrize("error", [OSError("no model of that name"), SafetensorError("header"), KeyError("ours")])
def test_errors_without_a_number_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, one_line("k"):
        raise error
    assert caught.value is error


def test_several_words_are_a_text_and_one_word_is_a_file(home: Path) -> None:
    (home / "text.txt").write_text("\n one\ntwo é \n", encoding="utf-8")
    assert text_or_file("k", " two words\n") == " two words\n"
    assert text_or_file("k", " ~/text.txt\n") == "one\ntwo é"
    (home / "marked.txt").write_text("one\n", encoding="utf-8-sig")
    assert text_or_file("k", "~/marked.txt") == "one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "k: the text is empty; set it to null for no text"),
        ("gone.txt", "k: no such file: gone.txt; name another, or write a text of several words"),
        ("~", "k: no such file: HOME; name another, or write a text of several words"),
        ("~/empty.txt", "k: HOME/empty.txt is empty"),
        ("~/latin.txt", "k: HOME/latin.txt is not UTF-8"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_line(home: Path, text: str, message: str) -> None:
    (home / "empty.txt").write_text(" \n", encoding="utf-8")
    (home / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(UserError) as caught:
        text_or_file("k", text)
    assert str(caught.value) == message.replace("HOME", str(home))


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


def test_an_error_while_a_file_is_replaced_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    path.write_text("old")

    def half() -> None:
        with replacing(path) as temporary:
            assert temporary.suffix == ".png"
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_filling_a_folder_leaves_other_files_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("notes.md", "weights"):
        (folder / name).write_text("old")

    def half() -> None:
        with filling(folder) as temporary:
            (temporary / "weights").write_text("half")
            raise OSError(errno.ENOSPC, "x")

    with pytest.raises(UserError, match="the disk is full"):
        half()
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"notes.md": "old", "weights": "old"}
    (tmp_path / ".adapter.4711.tmp").mkdir()  # of a run that was killed
    (tmp_path / ".adapter.old.tmp").mkdir()
    with filling(folder) as temporary:
        (temporary / "task").mkdir()
        for name in ("weights", "task/weights"):
            (temporary / name).write_text("new")
    assert (folder / "notes.md").read_text() == "old"
    assert (folder / "weights").read_text() == (folder / "task" / "weights").read_text() == "new"
    assert {p.name for p in tmp_path.iterdir()} == {"adapter", ".adapter.old.tmp"}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in (".adapter.4711.tmp", ".adapter.4711.tmp.d", ".adapter.mine.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").touch()
    for name in (".result.4711.tmp.json", ".result.4711.json", ".adapter.4712.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".adapter.4713.tmp").symlink_to(tmp_path / ".adapter.mine.tmp")
    for name in ("adapter", "result.json"):
        remove_leftovers(tmp_path / name)
    kept = {".adapter.4711.tmp.d", ".adapter.mine.tmp", ".result.4711.json"}
    assert {p.name for p in tmp_path.iterdir()} == kept
    assert (tmp_path / ".adapter.mine.tmp" / "weights").exists()


def test_a_folder_is_built_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "export"

    def half() -> None:
        with building(folder) as temporary:
            (temporary / "weights").write_text("half")
            raise UserError("the check failed")

    with pytest.raises(UserError, match="the check failed"):
        half()
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "deep" / ".export.4711.tmp").mkdir()  # of a process that was killed
    folder.mkdir()
    with building(folder) as temporary:
        (temporary / "weights").write_text("whole")
        assert list(folder.iterdir()) == []
    assert [p.relative_to(tmp_path).as_posix() for p in (tmp_path / "deep").rglob("*")] == [
        "deep/export",
        "deep/export/weights",
    ]


def build(folder: Path) -> None:
    check_new("export.output_dir", folder)
    with building(folder) as temporary:
        (temporary / "task").mkdir()
        (temporary / "task" / "weights").write_text("whole")


def test_the_present_folder_and_a_link_to_an_empty_one_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    monkeypatch.chdir(tmp_path / "here")
    for folder in (Path(), tmp_path / "link"):
        build(folder)
    for name in ("here", "target"):
        assert (tmp_path / name / "task" / "weights").read_text() == "whole"
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"here", "link", "target"}


def test_a_mount_point_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = tmp_path / "volume"
    (volume / ".volume.4711.tmp").mkdir(parents=True)  # of a process that was killed
    monkeypatch.setattr(Path, "is_mount", lambda path: path == volume)
    build(volume)
    assert [path.relative_to(volume).as_posix() for path in volume.rglob("*")] == ["task", "task/weights"]
    assert list(tmp_path.iterdir()) == [volume]


def test_a_new_folder_is_missing_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("theirs")
    for name in ("empty", "missing"):
        check_new("export.output_dir", tmp_path / name)
    for name in ("link", "file", "."):
        with pytest.raises(UserError, match=r"export\.output_dir: .* exists already; name a new folder"):
            check_new("export.output_dir", tmp_path / name)
