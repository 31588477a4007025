"""Make Arrow tables once: small ones in memory, large ones as memory-mapped files in the cache of `datasets`.

The key of a table has everything that decides its content: the bytes of the files, the settings, the tokenizer and the
code. A table is thus never out of date. Old tables only take space, and the folder may be deleted at any time.
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
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from softprompts.errors import short, warn

import pyarrow
import pyarrow.ipc
from filelock import FileLock

LARGE = 2**24  # bytes of sources; smaller ones are read again about as fast as a kept table
BATCH = 1000  # rows
NOTES = "notes.json"
# Libraries that decide the content of a table: its values, or the warnings that are kept with it.
LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow", "datasets", "jsonschema", "rouge-score", "sacrebleu")
T = TypeVar("T")


class NotKept(Exception):  # noqa: N818 - no error: the table is made in memory instead
    """The content of a table cannot be written to a file."""


@dataclass(frozen=True)
class Tables:
    """Tables by name, and notes from making them. `key` is None if they are only in memory."""

    tables: dict[str, pyarrow.Table]
    notes: Any
    key: str | None

    def batches(self, name: str, columns: Sequence[str]) -> Iterator[pyarrow.Table]:
        """Yield some columns of a table from its first row to its last, one batch of rows at a time.

        A file is read, not mapped: mapped pages stay in the process's memory until another process needs it.
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
    """Write the rows of one table, one batch of columns at a time."""

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
    """Separate errors of the cache's disk from errors of the data."""
    try:
        yield
    except OSError as error:
        raise _WriteError(str(error)) from error


def key_of(kind: str, *parts: Any) -> str:
    """Return the key of tables that the present code makes from these parts, which are JSON values or have a `repr`."""
    text = json.dumps([_code(), _in_order(parts)], default=repr)
    return f"{kind}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


def _in_order(value: Any) -> Any:
    """Return a value with each object as a list of its keys and values, sorted by key.

    JSON cannot sort keys of several types, and YAML reads the keys of `task.choices` as texts, numbers or booleans.
    """
    if isinstance(value, dict):
        return sorted(([repr(key), _in_order(inner)] for key, inner in value.items()), key=lambda item: item[0])
    return [_in_order(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def _code() -> str:
    """Return a digest of this package's modules, and of the versions of the libraries that make tables.

    All modules: a list of those that make tables would be out of date after their next import.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).resolve().parent.parent.rglob("*.py")):
        digest.update(file.read_bytes())
    for name in LIBRARIES:
        digest.update(f"{name} {version(name)}\0".encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder of kept tables."""
    import datasets  # takes a second, and small data do not need it

    return Path(datasets.config.HF_DATASETS_CACHE) / "softprompts"


def make_tables(
    key: str | None,
    schemas: Mapping[str, pyarrow.Schema],
    make: Callable[[dict[str, Writer]], Any],
    keep: bool = True,
) -> Tables:
    """Return the tables that are kept under a key; otherwise make and keep them.

    If several processes request the same key at once, one makes the tables and the others wait. If the cache cannot be
    written, a single warning is logged and the tables are made in memory.

    Args:
        key: a key from `key_of`; None makes the tables in memory.
        schemas: the tables' columns.
        make: writes the rows, and returns notes to keep as JSON values. It raises `NotKept` for a table that cannot be
            written to a file, and is then called again to make it in memory.
        keep: whether the files stay for later calls. Otherwise they are deleted before they are returned: the system
            frees them when the process ends. Tables that are made from these have no key, and are in memory.
    """
    if key is not None:
        folder = cache_folder() / key
        found = _open(folder, schemas)
        try:
            return found or _make_files(folder, schemas, make, keep)
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
    warn(f"{folder}: cannot be written ({why}), so every run makes rows and tokens again, in memory")


def _make_files(folder: Path, schemas: Mapping[str, pyarrow.Schema], make: Callable[..., Any], keep: bool) -> Tables:
    with _failing():
        folder.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _failing(), suppress(NotImplementedError):  # without locks, each process makes its own tables
            stack.enter_context(FileLock(f"{folder}.lock"))
        if found := _open(folder, schemas):
            return found
        with _failing():
            for left in folder.parent.glob(f"{folder.name}.*.tmp"):  # left by a killed process
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
        if not keep:
            return _opened(temporary, schemas, None)
        with _failing():
            shutil.rmtree(folder, ignore_errors=True)  # `_open` could not read it
            with suppress(FileExistsError):
                temporary.rename(folder)
        return _opened(folder, schemas, folder.name)


def _opened(folder: Path, schemas: Mapping[str, pyarrow.Schema], key: str | None) -> Tables:
    if (made := _open(folder, schemas)) is None:
        raise _WriteError("the written tables cannot be read")
    return replace(made, key=key)


def _open(folder: Path, schemas: Mapping[str, pyarrow.Schema]) -> Tables | None:
    """Return the tables of a folder; None if they are missing or damaged."""
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
    """A sequence that makes an item at each access. A slice of it is also lazy."""

    def __init__(self, count: int) -> None:
        """Cover all of `count` items."""
        self.span = self.whole = range(count)

    @abstractmethod
    def _items(self, numbers: range) -> Iterator[T]:
        """Yield the items with these numbers in the whole sequence."""

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
    """Yield the values of some columns for the rows with these numbers."""
    if len(numbers) == 1:
        yield tuple(table[name][numbers[0]].as_py() for name in names)
    elif numbers.step == 1:
        part = table.select(names).slice(numbers.start, len(numbers))
        yield from zip(*(column.to_pylist() for column in part.columns), strict=True)
    else:
        for number in numbers:
            yield from columns_of(table, names, range(number, number + 1))
