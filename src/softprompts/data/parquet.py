"""Read rows of Parquet and Arrow files, and of `datasets` tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softprompts.data.values import Record, Unread, check_columns
from softprompts.errors import UserError, short

import datasets
import psutil
import pyarrow
import pyarrow.ipc
import pyarrow.parquet

BATCH = 1000  # rows
CELL = 50  # approximate size of a value as a Python object


def parquet_batches(path: Path, data: bytes) -> Iterator[list[Record]]:
    """Yield the rows of a Parquet file with these bytes; a value that cannot be read is an `Unread`.

    Raises:
        UserError: the file is not readable or damaged; a column appears twice; the values need more memory than there
            is.
    """
    with (
        _one_line(path, "parquet"),
        pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), page_checksum_verification=True) as file,
    ):
        check_columns(str(path), file.schema_arrow.names)
        _check_size(path, file.metadata)
        for batch in file.iter_batches(BATCH):
            yield _rows(pyarrow.Table.from_batches([batch]))


def arrow_batches(path: Path, data: bytes) -> Iterator[list[Record]]:
    """Yield the rows of an Arrow file with these bytes, of either kind: a file, or a stream as written by `datasets`.

    Raises:
        UserError: the file is not readable or damaged; a column appears twice.
    """
    opened = pyarrow.ipc.open_file if data.startswith(b"ARROW1") else pyarrow.ipc.open_stream
    with _one_line(path, "arrow"):
        with opened(pyarrow.BufferReader(data)) as file:
            check_columns(str(path), file.schema.names)
            table = file.read_all()
        table.validate(full=True)  # damaged offsets could point to any memory
        for start in range(0, table.num_rows, BATCH):
            yield _rows(table.slice(start, BATCH))


def saved_batches(folder: Path) -> Iterator[list[Record]]:
    """Yield the rows of a table that `datasets` saved to disk.

    Raises:
        UserError: it cannot be loaded.
    """
    with _one_line(folder, "a saved dataset"):
        yield from batches_of(datasets.load_from_disk(str(folder)))


def batches_of(table: datasets.Dataset) -> Iterator[list[Record]]:
    """Yield the rows of a `datasets` table as plain dicts, as `rows_of` makes them."""
    for start in range(0, len(table), BATCH):
        yield rows_of(table.select(range(start, min(start + BATCH, len(table)))))


def streamed_batches(path: str, stream: datasets.IterableDataset) -> Iterator[list[Record]]:
    """Yield the rows of a streamed dataset as plain dicts, as `rows_of` makes them.

    Raises:
        UserError: the network or a shard fails.
    """
    with _one_line(path, "a stream of rows"):
        for table in stream.with_format("arrow").iter(BATCH):
            yield rows_of(datasets.Dataset(table))


@contextmanager
def _one_line(path: Path | str, kind: str) -> Iterator[None]:
    """Turn any error of a library about damaged bytes into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path}: not readable as {kind}: {short(str(error).strip() or type(error).__name__)}"
        ) from None


def _check_size(path: Path, metadata: Any) -> None:
    """Refuse a file whose few bytes expand to billions of values, by intent or by damage."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    needed = size + CELL * metadata.num_rows * metadata.num_columns
    memory = psutil.virtual_memory().total
    if needed > memory:
        raise UserError(
            f"{path}: {metadata.num_rows:,} rows of {metadata.num_columns} columns need {needed / 2**30:,.0f} GiB, "
            f"but this machine has {memory / 2**30:,.0f}; split the file"
        )


def _rows(table: pyarrow.Table) -> list[Record]:
    """Return the rows of a table. It is read by column, so that an unreadable column does not stop the others."""
    columns: dict[str, list[Any]] = {}
    for name in table.column_names:
        column = table.select([name])
        if _has_field_twice(column.schema[0].type):  # a dict would keep the last
            columns[name] = [_cell(value) for value in column[name]]
            continue
        try:
            # Dataset.from_parquet would keep a copy of every version of a user's file in the cache of `datasets`.
            columns[name] = [row[name] for row in rows_of(datasets.Dataset(column))]
        except Exception:  # a type without a name in `datasets`, or a text that is not UTF-8
            columns[name] = [_cell(value) for value in column[name]]
    return [{name: values[n] for name, values in columns.items()} for n in range(table.num_rows)]


def _has_field_twice(kind: pyarrow.DataType) -> bool:
    fields = [kind.field(n) for n in range(kind.num_fields)]
    return len({f.name for f in fields}) < len(fields) or any(_has_field_twice(f.type) for f in fields)


def _cell(value: pyarrow.Scalar) -> Any:
    """Return one value of a column that is not readable as a whole."""
    kind = value.type
    if not value.is_valid:
        return None
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind):
        try:
            return value.as_py()
        except UnicodeDecodeError:
            return Unread("a text that is not UTF-8")
    return Unread(f"values of the type {short(kind)}")


def rows_of(table: datasets.Dataset) -> list[Record]:
    """Return the rows of a `datasets` table as plain dicts: class labels as their names, hidden ones (-1) as None."""
    nested = {c: f for c, f in table.features.items() if not isinstance(f, datasets.Value)}
    rows = table.to_list()
    for row in rows:
        for column, feature in nested.items():
            row[column] = _with_names(row[column], feature)
    return rows


def _with_names(value: Any, feature: Any) -> Any:
    if value is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(value) if value >= 0 else None
    if isinstance(feature, datasets.List | datasets.LargeList):
        return [_with_names(v, feature.feature) for v in value]
    if isinstance(feature, dict):
        return {key: _with_names(value[key], f) for key, f in feature.items()}
    return value
