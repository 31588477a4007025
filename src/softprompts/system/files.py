"""Read paths that a user names, with errors of one line; write files atomically."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softprompts.errors import UserError

from safetensors import SafetensorError

PROJECT = Path(__file__).resolve().parents[3]
# Whether PROJECT is a clone of this project, and not the folder of an installation.
IS_CLONE = (PROJECT / "src" / "softprompts").is_dir() and (PROJECT / "recipes").is_dir()
FULL = (errno.ENOSPC, errno.EDQUOT)
VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([^}]*)\})")
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def expanded(key: str, text: str) -> str:
    """Return a path with `$VAR`, `${VAR}`, and `~` or `~user` at its start, replaced as a shell does.

    If a path cannot be expanded, but exists as it is written, it does not change. Hub ids do not contain these signs.

    Args:
        key: the setting, for the message of an error.
        text: the path as the user wrote it.

    Raises:
        UserError: a variable is not set or empty; a user has no home folder; the path has a NUL character.
    """
    if "\0" in text:
        raise UserError(f"{key}: a path cannot hold a NUL character: {text!r}")

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = os.environ.get(name, "")
        if not found:
            state = "is empty" if name in os.environ else "is not set"
            raise UserError(f'{key}: the environment variable "{name}" {state}: {text}')
        return found

    try:
        path = VARIABLE.sub(value, text)
        if path.startswith("~"):
            home = os.path.expanduser(path)  # noqa: PTH111 - Path would also normalise the rest
            if home == path or home.startswith("~"):
                raise UserError(f"{key}: no home folder is known for {path.split('/')[0]}: {text}")
            path = home
    except UserError:
        if os.path.lexists(text):
            return text
        raise
    return path


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False for any other path, or one that may not be read."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Return whether a path is a file; False if it does not exist.

    Raises:
        UserError: the path is something else, such as a folder or a pipe, or a link without a target; a folder of the
            path is a file, or may not be entered.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(f"{path}: is a link to {path.readlink()}, which does not exist") from None
        return False
    except NotADirectoryError:
        parent = next((p for p in path.parents if p.is_file()), path.parent)
        raise UserError(f"{path}: does not exist, since {parent} is a file and not a folder") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError:  # a NUL character
        raise UserError(f"{str(path)!r}: cannot be the path of a file") from None
    for test, kind in KINDS:
        if test(mode):
            raise UserError(f"{path}: expected a file, found {kind}")
    return True


def read_bytes(path: Path) -> bytes:
    """Return the content of a file that a user names.

    Raises:
        UserError: no such file; the file cannot be read.
    """
    if not is_file(path):
        raise UserError(f"{path}: no such file")
    with one_line(path):
        return path.read_bytes()


def text_or_file(key: str, text: str) -> str:
    """Return a text of several words, or the content of a file without space around it; a single word is a path.

    Args:
        key: the setting, for the message of an error.
        text: the text, or the path.

    Raises:
        UserError: the text or the file is empty; no such file; the file is not UTF-8.
    """
    if not text.strip():
        raise UserError(f"{key}: the text is empty; set it to null for no text")
    if re.search(r"\s", text.strip()):
        return text
    path = Path(expanded(key, text.strip()))
    if not path.is_file():
        raise UserError(f"{key}: no such file: {path}; name another, or write a text of several words")
    with one_line(path):
        try:
            read = path.read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError:
            raise UserError(f"{key}: {path} is not UTF-8") from None
    if not read:
        raise UserError(f"{key}: {path} is empty")
    return read


@contextmanager
def one_line(path: Path | str) -> Iterator[None]:
    """Turn an error of the operating system within this context into one line that names `path`.

    Raises:
        UserError: replaces an `OSError` or a `SafetensorError` that has a number of the operating system.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error_number(error)
        if number is None:
            raise
        if number in FULL:
            raise UserError(f"{path}: the disk is full; saved files are unharmed. Free space, then --resume") from error
        raise UserError(f"{path}: {os.strerror(number)}") from error


def error_number(error: Exception) -> int | None:
    """Return the operating system's number of an error; errors of safetensors have it only in their text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step: readers see the old text or the new one, never a part.

    Raises:
        UserError: the disk is full; the place cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the folder of `path`, which replaces `path` at the end; after an error it is removed.

    Raises:
        UserError: the disk is full; the place cannot be written.
    """
    temporary = _temporary(path)
    with one_line(path):
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files move into `folder` at the end and replace only files of the same names.

    Raises:
        UserError: the disk is full; the place cannot be written.
    """
    with _beside(folder) as temporary:
        yield temporary
        for file in sorted(p for p in temporary.rglob("*") if p.is_file()):
            target = folder / file.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            _flush(file)
            file.replace(target)


def remove_leftovers(path: Path) -> None:
    """Delete temporary files and folders of `path` that a killed process left; no process may be writing there."""
    with one_line(path):
        for place in _leftovers(path):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink()


def _leftovers(path: Path) -> list[Path]:
    leftover = re.compile(rf"\.{re.escape(path.stem)}\.\d+\.tmp{re.escape(path.suffix)}", re.ASCII)
    return [p for p in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp*") if leftover.fullmatch(p.name)]


def _temporary(path: Path) -> Path:
    """Return the temporary name of a file or folder in this process."""
    # The suffix stays at the end, because matplotlib chooses the format by it.
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def _flush(file: Path) -> None:
    """Wait until a file is on the disk, because a rename may reach the disk before the file's content."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def check_new(key: str, folder: Path) -> None:
    """Raise `UserError`, with the name of a setting, unless a folder is new or empty."""
    if not os.path.lexists(folder):
        return
    if not is_folder(folder) or set(folder.iterdir()) - set(_leftovers(folder / folder.resolve().name)):
        raise UserError(f"{key}: {folder} exists already; name a new folder")


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `folder` at the end; after an error it is removed.

    If `folder` is a mount point, which cannot be replaced, the files move into it instead.

    Args:
        folder: new or empty, as `check_new` requires.

    Raises:
        UserError: the disk is full; the place cannot be written.
    """
    with _beside(folder) as temporary:
        yield temporary
        place = folder.resolve()
        if temporary.parent == place:
            for entry in temporary.iterdir():
                entry.rename(place / entry.name)
        else:
            temporary.rename(place)


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder next to `folder`; if it still exists at the end, it is removed.

    It is inside of a mount point, because files cannot be renamed across file systems. Links are resolved.
    """
    place = folder.resolve()
    place = place / place.name if place.is_mount() else place
    temporary = _temporary(place)
    with one_line(folder):
        remove_leftovers(place)
        try:
            temporary.mkdir(parents=True)
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
