"""Keep the rows of a split in an Arrow table, and make each row at its access."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from softprompts.data.tables import BATCH, Lazy, NotKept, Tables, Writer, columns_of
from softprompts.data.values import Record
from softprompts.tasks.templates import Row, render

import pyarrow

# `record` is JSON; null if the record contains a value that JSON does not have, such as a date.
SCHEMA = pyarrow.schema([(name, pyarrow.large_string()) for name in ("place", "prompt", "target", "record")])
_as_json = json.JSONEncoder(ensure_ascii=False).encode


class Text(NamedTuple):
    """The texts of a row, without its record."""

    place: str
    prompt: str
    target: str


class StoredRows(Lazy[Row]):
    """The rows of a split. `sha256` is the digest of their prompts and targets."""

    def __init__(self, tables: Tables, split: str) -> None:
        """Read the rows that a `RowWriter` wrote to one of the tables."""
        self.table = tables.tables[split]
        self._tables, self._split = tables, split
        notes = tables.notes[split]
        self.sha256: str = notes["sha256"]
        self._odd: dict[int, Record] = notes["odd"]
        self.key = tables.key and f"{tables.key}/{split}"
        super().__init__(self.table.num_rows)

    def _items(self, numbers: range) -> Iterator[Row]:
        found = columns_of(self.table, SCHEMA.names, numbers)
        for number, (place, prompt, target, record) in zip(numbers, found, strict=True):
            yield Row(place, prompt, target, self._odd[number] if record is None else json.loads(record))

    def texts(self) -> Iterator[Text]:
        """Yield the rows without their records, whose reading takes most of the time."""
        if self.span == self.whole:
            for batch in self._tables.batches(self._split, Text._fields):
                yield from map(Text._make, zip(*(column.to_pylist() for column in batch.columns), strict=True))
            return
        for start in range(0, len(self.span), BATCH):
            yield from map(Text._make, columns_of(self.table, Text._fields, self.span[start : start + BATCH]))


def texts_of(rows: Sequence[Row]) -> Iterator[Text]:
    """Yield place, prompt and target of rows."""
    return rows.texts() if isinstance(rows, StoredRows) else (Text(r.place, r.prompt, r.target) for r in rows)


def key_of_rows(rows: Sequence[Row]) -> str | None:
    """Return the name of these rows in the keys of other tables; None if they are only in memory."""
    return f"{rows.key} {rows.span}" if isinstance(rows, StoredRows) and rows.key else None


def digest_of(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of the prompts and targets of rows."""
    if isinstance(rows, StoredRows) and rows.span == rows.whole:
        return rows.sha256
    digest = hashlib.sha256()
    for text in texts_of(rows):
        digest.update(_content(text.prompt, text.target))
    return digest.hexdigest()


def _content(prompt: str, target: str) -> bytes:
    return f"{prompt}\0{target}\0".encode()


class RowWriter:
    """Writes the rows of one split."""

    def __init__(self, writer: Writer) -> None:
        """Write to a table of `SCHEMA`."""
        self.writer = writer
        self.count = 0
        self._digest = hashlib.sha256()
        self._odd: dict[int, Record] = {}
        self._batch: list[tuple[str, str, str, str | None]] = []

    def add(self, place: str, prompt: str, target: str, record: Record) -> None:
        """Append a row.

        Raises:
            NotKept: the table is a file, and the record is not JSON.
        """
        text = _as_json(record) if _is_json(record) else None
        if text is None:
            if self.writer.kept:
                raise NotKept
            self._odd[self.count] = record
        self.count += 1
        self._batch.append((place, prompt, target, text))
        if len(self._batch) == BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            self._digest.update(b"".join(_content(prompt, target) for _, prompt, target, _ in self._batch))
            self.writer.write(*zip(*self._batch, strict=True))
            self._batch.clear()

    def close(self) -> dict[str, Any]:
        """Write the remaining rows, and return the facts that `StoredRows` needs in addition to the table."""
        self._flush()
        return {"sha256": self._digest.hexdigest(), "odd": self._odd}


def rewritten(rows: Sequence[Row], writer: Writer, prompt: str, solved: str) -> dict[str, Any]:
    """Write rows with another prompt after the few-shot examples; return the facts that `StoredRows` needs."""
    written = RowWriter(writer)
    for row in rows:
        written.add(row.place, solved + render(prompt, row.record, row.place), row.target, row.record)
    return written.close()


def _is_json(value: Any) -> bool:
    """Return whether a value is the same after conversion to JSON and back."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and _is_json(v) for key, v in value.items())
    return all(map(_is_json, value)) if kind is list else kind in (str, int, float, bool, type(None))
