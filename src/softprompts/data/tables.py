"""Arrow tables that are made once: small ones in memory, large ones memory-mapped from the cache folder of `datasets`.

What makes the content of a table is in its key: the bytes of the files, the settings, the tokenizer, the code. A table
is thus never out of date, and one that nothing asks for any more is in nobody's way but the disk's: the folder can be
deleted at any time.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from softprompts.errors import short, warn

import pyarrow
import pyarrow.ipc
from filelock import FileLock

LARGE = 2**24  # bytes of sources from which on tables are kept; less is read anew about as fast
BATCH = 1000  # rows
NOTES = "notes.json"
# Whatever these do decides what is in a table.
LIBRARIES = ("transformers", "tokenizers", "pyarrow", "datasets")
T = TypeVar("T")


class NotKept(Exception):  # noqa: N818 - no error: the table is made in memory instead
    """What a table holds cannot be written to a file."""


@dataclass(frozen=True)
class Tables:
    """Tables by name, and what else was found in making them. `key` is None if they are in memory only."""

    tables: dict[str, pyarrow.Table]
    notes: Any
    key: str | None

    def batches(self, name: str, columns: Sequence[str]) -> Iterator[pyarrow.Table]:
        """Yield some columns of a table from its first row to its last, a batch of rows at a time.

        A file is read and not mapped then: mapped pages stay in the memory of the process until others need it.
        """
        if self.key is None:
            yield from (self.tables[name].select(columns).slice(n, BATCH) for n in self._starts(name))
            return
        with pyarrow.OSFile(str(cache_folder() / self.key / f"{name}.arrow")) as file:
            reader = pyarrow.ipc.open_file(file, options=_only(self.tables[name].schema, columns))
            for n in range(reader.num_record_batches):
                yield pyarrow.Table.from_batches([reader.get_batch(n)]).select(columns)

    def _starts(self, name: str) -> range:
        return range(0, self.tables[name].num_rows, BATCH)


def _only(schema: pyarrow.Schema, columns: Sequence[str]) -> pyarrow.ipc.IpcReadOptions:
    return pyarrow.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns])


class Writer:
    """Takes the rows of one table, a batch of columns at a time."""

    def __init__(self, schema: pyarrow.Schema, file: Path | None) -> None:
        """Write to a file, or keep the batches."""
        self.schema = schema
        self.kept = file is not None
        self.batches: list[pyarrow.RecordBatch] = []
        with _failing():
            self._writer = pyarrow.ipc.new_file(str(file), schema) if file else None

    def write(self, *columns: Any) -> None:
        """Append rows, given as one sequence or array for each column of the schema."""
        arrays = [
            column if isinstance(column, pyarrow.Array) else pyarrow.array(column, field.type)
            for column, field in zip(columns, self.schema, strict=True)
        ]
        batch = pyarrow.record_batch(arrays, schema=self.schema)
        if self._writer is None:
            self.batches.append(batch)
            return
        with _failing():
            self._writer.write_batch(batch)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            with _failing():
                self._writer.close()


class _WriteError(Exception):
    pass


@contextmanager
def _failing() -> Iterator[None]:
    """Tell an error of the cache's disk from one of the data's."""
    try:
        yield
    except OSError as error:
        raise _WriteError(str(error)) from error


def key_of(kind: str, *parts: Any) -> str:
    """Return the key of what is made from these parts, JSON values or their `repr`, by the code that runs."""
    text = json.dumps([_code(), parts], sort_keys=True, default=repr)
    return f"{kind}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


@cache
def _code() -> str:
    """Return a digest of the modules that make tables, and of the versions of the libraries that they use."""
    digest = hashlib.sha256()
    here = Path(__file__).resolve().parent
    for file in sorted(file for name in ("data", "tasks", "metrics") for file in (here.parent / name).rglob("*.py")):
        digest.update(file.read_bytes())
    for name in LIBRARIES:
        digest.update(f"{name} {version(name)}\0".encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder that tables are kept in."""
    import datasets  # takes a second, and small data do without

    return Path(datasets.config.HF_DATASETS_CACHE) / "softprompts"


def make_tables(
    key: str | None, schemas: Mapping[str, pyarrow.Schema], make: Callable[[dict[str, Writer]], Any]
) -> Tables:
    """Return tables that were kept under a key, or make them now and keep them.

    Several processes that ask for the same key at once wait for the one that makes it. A cache that cannot be written
    is said once, and the tables are made in memory then.

    Args:
        key: as `key_of` returns it; None makes them in memory.
        schemas: the tables' columns.
        make: writes the rows and returns what else is to be kept, as JSON values. For a table that cannot be kept it
            raises `NotKept`, and is called again to make it in memory.
    """
    if key is not None:
        folder = cache_folder() / key
        found = _open(folder, schemas)
        try:
            return found or _make_files(folder, schemas, make)
        except NotKept:
            pass
        except (_WriteError, OSError) as error:
            _warn_of_cache(str(cache_folder()), short(error))
    writers = {name: Writer(schema, None) for name, schema in schemas.items()}
    notes = make(writers)
    tables = {n: pyarrow.Table.from_batches(w.batches, schema=w.schema) for n, w in writers.items()}
    return Tables(tables, notes, None)


@cache
def _warn_of_cache(folder: str, why: str) -> None:
    warn(f"{folder}: cannot be written ({why}), so that rows and tokens are made in memory, and anew every time")


def _make_files(folder: Path, schemas: Mapping[str, pyarrow.Schema], make: Callable[..., Any]) -> Tables:
    with _failing():
        folder.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _failing(), suppress(NotImplementedError):  # without locks each process makes its own
            stack.enter_context(FileLock(f"{folder}.lock"))
        if found := _open(folder, schemas):
            return found
        with _failing():
            for left in folder.parent.glob(f"{folder.name}.*.tmp"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        writers: dict[str, Writer] = {}
        try:
            for name, schema in schemas.items():
                writers[name] = Writer(schema, temporary / f"{name}.arrow")
            notes = make(writers)
        except BaseException:
            for writer in writers.values():
                with suppress(_WriteError):
                    writer.close()
            raise
        for writer in writers.values():
            writer.close()
        with _failing():
            sizes = {name: (temporary / f"{name}.arrow").stat().st_size for name in schemas}
            (temporary / NOTES).write_text(json.dumps({"sizes": sizes, "notes": notes}), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # what `_open` could not read
            with suppress(FileExistsError):
                temporary.rename(folder)
        made = _open(folder, schemas)
    if made is None:
        raise _WriteError("what was written cannot be read")
    return made


def _open(folder: Path, schemas: Mapping[str, pyarrow.Schema]) -> Tables | None:
    """Return the tables of a folder; None if they are not there, or damaged."""
    try:
        kept = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        tables = {}
        for name, schema in schemas.items():
            file = folder / f"{name}.arrow"
            if file.stat().st_size != kept["sizes"][name]:
                return None
            tables[name] = pyarrow.ipc.open_file(pyarrow.memory_map(str(file))).read_all()
            if tables[name].schema != schema:
                return None
        return Tables(tables, kept["notes"], folder.name)
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException):
        return None


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are made whenever they are asked for. A slice of it is one, too."""

    def __init__(self, count: int) -> None:
        """Hold all of `count` items."""
        self.span = self.whole = range(count)

    @abstractmethod
    def _items(self, numbers: range) -> Iterator[T]:
        """Yield the items of these numbers, counted in the whole."""

    def __len__(self) -> int:
        return len(self.span)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Lazy[T]: ...

    def __getitem__(self, index: int | slice) -> T | Lazy[T]:
        if isinstance(index, slice):
            part = copy.copy(self)
            part.span = self.span[index]
            return part
        number = self.span[index]
        return next(self._items(range(number, number + 1)))

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self.span), BATCH):
            yield from self._items(self.span[start : start + BATCH])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def columns_of(table: pyarrow.Table, names: Sequence[str], numbers: range) -> Iterator[tuple[Any, ...]]:
    """Yield the values of some columns in the rows of these numbers."""
    if len(numbers) == 1:
        yield tuple(table[name][numbers[0]].as_py() for name in names)
    elif numbers.step == 1:
        part = table.select(names).slice(numbers.start, len(numbers))
        yield from zip(*(column.to_pylist() for column in part.columns), strict=True)
    else:
        for number in numbers:
            yield from columns_of(table, names, range(number, number + 1))
