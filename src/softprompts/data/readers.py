"""Read rows from files and folders of JSON, CSV, Parquet and Arrow, naming file and line of whatever is wrong."""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import io
import lzma
import re
import zlib
from pathlib import Path
from typing import Any

from softprompts.data.strict_json import JsonError, parse_json
from softprompts.data.values import Record, check_columns
from softprompts.errors import UserError, nearest, short
from softprompts.system.files import is_file, is_folder, read_bytes

import psutil

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
PACKED = (".gz", ".bz2", ".xz", ".zst")
WILD = re.compile(r"[*?\[]")
CHUNK = 2**24  # bytes

# How files begin that are no text in UTF-8, and what to do with them.
MAGIC = {
    b"\x1f\x8b": "gzip: let its name end in .gz",
    b"BZh": "bzip2: let its name end in .bz2",
    b"\xfd7zXZ": "xz: let its name end in .xz",
    b"\x28\xb5\x2f\xfd": "zstd: let its name end in .zst",
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save it as CSV",
    b"PAR1": "Parquet: name it .parquet",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
}


def read_file(path: str | Path) -> list[tuple[str, Record]]:
    """Return `(place, row)` pairs of a file, of all files of a folder, or of those that a pattern such as *.jsonl fits.

    Files may be packed (.gz, .bz2, .xz, .zst). A folder may also be what `datasets` saves to disk. `place` is
    "FILE:LINE"; "FILE row N", from 1, for Parquet and Arrow, and "FILE item N" for an array in JSON.

    Raises:
        UserError: no such file, unknown suffix, empty file, not UTF-8, malformed line, two columns of one name; a file
            that may not be read, or is damaged; a folder without such files, or a pattern that fits none.
    """
    path = Path(path)
    if is_folder(path) and (path / "state.json").is_file():
        from softprompts.data.parquet import read_saved

        return [(f"{path} row {n}", row) for n, row in enumerate(read_saved(path), start=1)]
    if is_folder(path):
        shards = sorted(p for p in path.iterdir() if _kind(p) in SUFFIXES and is_file(p))
        if not shards:
            raise UserError(f"{path}: the folder holds no file whose name ends in {', '.join(SUFFIXES)}")
        return [row for shard in shards for row in _read_one(shard)]
    if WILD.search(str(path)) and not is_file(path):
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        shards = sorted(Path(name) for name in found if is_file(Path(name)))
        if not shards:
            raise UserError(f"{path}: no file fits this pattern")
        return [row for shard in shards for row in _read_one(shard)]
    if not is_file(path):
        raise UserError(f"no such file: {path}{nearest(str(path), _beside(path))}")
    return _read_one(path)


def _read_one(path: Path) -> list[tuple[str, Record]]:
    kind = _kind(path)
    if kind not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file{nearest(kind, SUFFIXES)}")
    data = read_bytes(path)
    if not data:
        raise UserError(f"{path}: is empty")
    if path.suffix in PACKED:
        data = _unpacked(path, data)
    if kind in (".parquet", ".arrow"):
        from softprompts.data.parquet import read_arrow, read_parquet  # takes a second, and few need it

        read = read_parquet if kind == ".parquet" else read_arrow
        rows = [(f"{path} row {n}", row) for n, row in enumerate(read(path, data), start=1)]
    else:
        text = _decode(path, data)
        if kind in (".csv", ".tsv"):
            rows = _parse_csv(path, text, "\t" if kind == ".tsv" else ",")
        elif kind == ".json" and text.lstrip("\ufeff \t\r\n").startswith("["):
            rows = _parse_json_array(path, text)
        else:
            rows = _parse_jsonl(path, text)
    if not rows:
        raise UserError(f"{path}: has no rows")
    return rows


def _kind(path: Path) -> str:
    """Return what a file's name says that is in it, whatever it is packed with."""
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def _unpacked(path: Path, data: bytes) -> bytes:
    """Return what was packed.

    Raises:
        UserError: it is damaged, or larger than the memory that is free: a few bytes can stand for very many.
    """
    source = io.BytesIO(data)
    free, size, parts = psutil.virtual_memory().available, 0, []
    try:
        with _opened(path.suffix, source) as stream:
            while part := stream.read(CHUNK):
                parts.append(part)
                size += len(part)
                if 2 * size > free:
                    raise UserError(f"{path}: unpacked it takes more than half of the free memory; split the file")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: damaged, or not {path.suffix[1:]}: {short(error)}") from None
    return b"".join(parts)


def _opened(suffix: str, source: io.BytesIO) -> Any:
    if suffix == ".zst":
        import pyarrow  # a sixth of a second, and few need it

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(source, mode="r"), "zstd")
    unpack: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[suffix]
    return unpack(source)


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Raises:
        UserError: it may not be read; it is not UTF-8, or holds a NUL.
    """
    return _decode(path, read_bytes(path))


def _beside(path: Path) -> list[str]:
    try:
        return [str(p) for p in path.parent.glob("*") if _kind(p) in SUFFIXES and p.is_file()]
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


def _parse_json_array(path: Path, text: str) -> list[tuple[str, Record]]:
    try:
        items = parse_json(text.lstrip("\ufeff"))
    except JsonError as error:
        raise UserError(f"{path}: malformed JSON: {short(error)}") from None
    rows = []
    for number, item in enumerate(items, start=1):
        place = f"{path} item {number}"
        if not isinstance(item, dict):
            raise UserError(f"{place}: expected a JSON object, found {type(item).__name__}")
        check_columns(place, item)
        rows.append((place, item))
    return rows


def _parse_csv(path: Path, text: str, delimiter: str) -> list[tuple[str, Record]]:
    """Read every field as text: guessing types would turn "NA" into nothing, "007" into 7 and "true" into "True".

    A column without a name, as pandas writes its index, is left out: no setting could name it.
    """
    before = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    line = 1
    try:
        header = next(reader, [])
        if len(header) == 1 and (other := re.search(r"[,\t;|]", header[0])):
            named = {"\t": "tabs", ",": "commas"}.get(other[0], f'"{other[0]}"')
            advice = {"\t": "name it .tsv", ",": "name it .csv"}.get(other[0], "write them with commas")
            raise UserError(f"{path}:1: fields are parted by {named}; {advice}")
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
