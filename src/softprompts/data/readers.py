"""Read rows from JSONL, CSV and Parquet files, naming file and line of whatever is wrong."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from softprompts.data.strict_json import JsonError, parse_json
from softprompts.data.values import Record, check_columns
from softprompts.errors import UserError, nearest, short
from softprompts.system.files import is_file, read_bytes

SUFFIXES = (".jsonl", ".csv", ".parquet")

# How files begin that are no text in UTF-8, and what to do with them.
MAGIC = {
    b"\x1f\x8b": "gzip: unpack it first",
    b"BZh": "bzip2: unpack it first",
    b"\xfd7zXZ": "xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd: unpack it first",
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save it as CSV",
    b"PAR1": "Parquet: name it .parquet",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
}


def read_file(path: str | Path) -> list[tuple[str, Record]]:
    """Return `(place, row)` pairs; `place` is "FILE:LINE", or "FILE row N" (from 1) for Parquet.

    Raises:
        UserError: no such file, unknown suffix, empty file, not UTF-8, malformed line, two columns of one name; a file
            that may not be read, or is damaged.
    """
    path = Path(path)
    if not is_file(path):
        raise UserError(f"no such file: {path}{nearest(str(path), _beside(path))}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file{nearest(path.suffix, SUFFIXES)}")
    data = read_bytes(path)
    if not data:
        raise UserError(f"{path}: is empty")
    if path.suffix == ".parquet":
        from softprompts.data.parquet import read_parquet  # takes a second, and few need it

        rows = [(f"{path} row {n}", row) for n, row in enumerate(read_parquet(path, data), start=1)]
    else:
        text = _decode(path, data)
        rows = _parse_jsonl(path, text) if path.suffix == ".jsonl" else _parse_csv(path, text)
    if not rows:
        raise UserError(f"{path}: has no rows")
    return rows


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Raises:
        UserError: it may not be read; it is not UTF-8, or holds a NUL.
    """
    return _decode(path, read_bytes(path))


def _beside(path: Path) -> list[str]:
    try:
        return [str(p) for p in path.parent.glob("*") if p.suffix in SUFFIXES and p.is_file()]
    except OSError:
        return []


def _decode(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
        at = data.find(b"\0")
        what = "holds a NUL byte, as UTF-16 does, and no text in UTF-8"
    except UnicodeDecodeError as error:
        # The codec counts from behind a byte order mark.
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        what = f"not UTF-8 (byte 0x{data[at]:02x})"
    if at < 0:
        return text
    hint = next((f"; it is {what}" for magic, what in MAGIC.items() if data.startswith(magic)), "")
    line = data.count(b"\n", 0, at) + 1
    raise UserError(f"{path}:{line}: {what}{hint}")


def _parse_jsonl(path: Path, text: str) -> list[tuple[str, Record]]:
    rows = []
    # Not splitlines(): a JSON string may hold U+2028 and other characters that it takes for line ends.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        line = line.removeprefix("\ufeff")  # files that were joined keep the byte order mark of each
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except JsonError as error:
            raise UserError(f"{path}:{number}: malformed JSON: {short(error)}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        check_columns(f"{path}:{number}", row)
        rows.append((f"{path}:{number}", row))
    return rows


def _parse_csv(path: Path, text: str) -> list[tuple[str, Record]]:
    """Read every field as text: guessing types would turn "NA" into nothing, "007" into 7 and "true" into "True".

    A column without a name, as pandas writes its index, is left out: no setting could name it.
    """
    before = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    line = 1
    try:
        header = next(reader, [])
        if len(header) == 1 and (other := re.search(r"[\t;|]", header[0])):
            named = {"\t": "tabs"}.get(other[0], f'"{other[0]}"')
            raise UserError(f"{path}:1: fields are parted by {named}; write them with commas")
        kept = [n for n, name in enumerate(header) if name.strip()]
        check_columns(f"{path}:1", (name if name.strip() else f"#{n}" for n, name in enumerate(header)))
        if not kept:
            raise UserError(f"{path}:1: the header names no column")
        line = reader.line_num + 1
        for values in reader:
            if values and len(values) != len(header):
                raise UserError(f"{path}:{line}: {len(values)} fields, but the header names {len(header)}")
            if values and [v.removeprefix("\ufeff") for v in values] == header:
                raise UserError(f"{path}:{line}: the header stands here once more")
            if values:
                rows.append((f"{path}:{line}", {header[n]: values[n] for n in kept}))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: malformed CSV: {error}") from None
    finally:
        csv.field_size_limit(before)
    return rows
