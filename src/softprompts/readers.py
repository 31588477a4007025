"""Read rows from JSONL, CSV and Parquet files, naming file and line of whatever is wrong."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, nearest
from softprompts.files import is_file, one_line, read_bytes

import datasets
import pyarrow
import pyarrow.parquet

SUFFIXES = (".jsonl", ".csv", ".parquet")

Record = dict[str, Any]


def read_file(path: str | Path) -> list[tuple[str, Record]]:
    """Return `(place, row)` pairs; `place` is "FILE:LINE", or "FILE row N" (from 1) for Parquet.

    Raises:
        UserError: no such file, unknown suffix, empty file, not UTF-8, malformed line.
    """
    path = Path(path)
    if not is_file(path):
        siblings = [str(p) for p in path.parent.glob("*") if p.suffix in SUFFIXES] if path.parent.is_dir() else []
        raise UserError(f"no such file: {path}{nearest(str(path), siblings)}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file{nearest(path.suffix, SUFFIXES)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty")
    if path.suffix == ".parquet":
        rows = _read_parquet(path)
    else:
        text = _decode(path)
        rows = _parse_jsonl(path, text) if path.suffix == ".jsonl" else _parse_csv(path, text)
    if not rows:
        raise UserError(f"{path}: has no rows")
    return rows


def _decode(path: Path) -> str:
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x})") from None


def _parse_jsonl(path: Path, text: str) -> list[tuple[str, Record]]:
    rows = []
    # Not splitlines(): a JSON string may hold U+2028 and other characters that it takes for line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: malformed JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append((f"{path}:{number}", row))
    return rows


def _parse_csv(path: Path, text: str) -> list[tuple[str, Record]]:
    """Read every field as text: guessing types would turn "NA" into nothing, "007" into 7 and "true" into "True"."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    line = 1
    try:
        header = next(reader, [])
        line = reader.line_num + 1
        for values in reader:
            if values and len(values) != len(header):
                raise UserError(f"{path}:{line}: {len(values)} fields, but the header names {len(header)}")
            if values:
                rows.append((f"{path}:{line}", dict(zip(header, values, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: malformed CSV: {error}") from None
    return rows


def _read_parquet(path: Path) -> list[tuple[str, Record]]:
    try:
        # Not Dataset.from_parquet, which keeps a copy of every version of a user's file in the cache of `datasets`.
        with one_line(path):
            table = datasets.Dataset(pyarrow.parquet.read_table(path))
    except (pyarrow.ArrowException, ValueError) as error:
        raise UserError(f"{path}: not readable as parquet: {' '.join(str(error).split())}") from None
    return [(f"{path} row {n}", row) for n, row in enumerate(rows_of(table), start=1)]


def rows_of(table: datasets.Dataset) -> list[Record]:
    """Return the rows of a `datasets` table as plain dicts, class labels as their names, hidden ones (-1) as None."""
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


def plain(value: Any) -> Any:
    """Return a value as a template takes it: a list as "a, b" or "none", an object as JSON, all else as it is."""
    if isinstance(value, list):
        return ", ".join(str(plain(v)) for v in value) or "none"
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else value
