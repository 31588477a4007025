"""Read rows from files and folders of JSON, CSV, Parquet and Arrow; errors name the file and the line."""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import hashlib
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from softprompts.data.strict_json import JsonError, parse_json
from softprompts.data.values import Record, check_columns
from softprompts.errors import UserError, listed, nearest, short
from softprompts.system.files import is_file, is_folder, one_line, read_bytes

import psutil

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
PACKED = (".gz", ".bz2", ".xz", ".zst")
WILD = re.compile(r"[*?\[]")
CHUNK = 2**20  # bytes of a text that are read at a time
BATCH = 1000  # rows
LONGEST_CELL = 2**31 - 1

# First bytes of files that are not UTF-8 text, and the advice for each.
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

Rows = list[tuple[str, Record]]  # each with its place


@dataclass(frozen=True)
class Source:
    """Rows that can be read repeatedly, one batch at a time.

    batches: reads the rows in order; content: returns a digest of the data; size: bytes of the data, compressed if it
    is, or enough to keep its rows; files: those with the rows, in order; none for a dataset of the Hub.
    """

    batches: Callable[[], Iterator[Rows]]
    content: Callable[[], str]
    size: int
    files: tuple[Path, ...] = ()


def open_file(path: str | Path) -> Source:
    """Return the rows of a file, of all files of a folder, or of those that match a pattern such as *.jsonl.

    Files may be compressed (.gz, .bz2, .xz, .zst). A folder may also be one that `datasets` saved. The place of a row
    is "FILE:LINE"; "FILE row N", from 1, for Parquet and Arrow; "FILE item N" for an array in JSON, and
    "FILE data item N" for one below a key, as in {"data": [...]}.

    Raises:
        UserError: the file is missing or its suffix unknown; a folder, or a pattern, without such files. During
            reading: the file is empty, damaged, not UTF-8 or not readable; a line is malformed; two columns have one
                name.
    """
    path = Path(path)
    if is_folder(path) and (path / "state.json").is_file():
        from softprompts.data.parquet import saved_batches

        files = sorted(p for p in path.iterdir() if p.is_file())
        return _source(files, lambda: numbered(str(path), saved_batches(path)))
    if is_folder(path):
        shards = _shards(path)
    elif WILD.search(str(path)) and not is_file(path):
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        shards = sorted(Path(name) for name in found if is_file(Path(name)))
        if not shards:
            raise UserError(f"{path}: no file matches this pattern")
    elif is_file(path):
        shards = [path]
    else:
        raise UserError(f"no such file: {path}{nearest(str(path), _beside(path))}")
    for shard in shards:
        if _kind(shard) not in SUFFIXES:
            packed = ", ".join(PACKED)
            raise UserError(
                f"{shard}: unknown kind of file; names end in {', '.join(SUFFIXES)}, or if compressed in {packed}"
            )
    return _source(shards, lambda: (batch for shard in shards for batch in _read_one(shard)))


def _shards(folder: Path) -> list[Path]:
    """Return the data files of a folder. Hidden files, as editors and other systems leave them, do not count.

    Raises:
        UserError: there are none; the folder contains splits; or the data is in folders below it, which are not read.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = [str(p.parent) for p in sorted(folder.glob("*/state.json"))]
        raise UserError(f"{folder}: holds several splits; name one of them: {', '.join(splits) or 'none is complete'}")
    below = [p for p in sorted(folder.glob("*/**/*")) if _kind(p) in SUFFIXES and is_file(p)]
    hidden = [p for p in below if any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if len(below) > len(hidden):
        seen = next(p for p in below if p not in hidden)
        raise UserError(
            f"{folder}: has data in folders below it, for example {seen}; name a pattern: {folder}/*{_kind(seen)} "
            f"without them, {folder}/**/*{_kind(seen)} with them"
        )
    found = sorted(p for p in folder.iterdir() if _kind(p) in SUFFIXES and is_file(p) and not p.name.startswith("."))
    if not found:
        raise UserError(f"{folder}: the folder holds no file whose name ends in {', '.join(SUFFIXES)}")
    return found


def _source(files: list[Path], batches: Callable[[], Iterator[Rows]]) -> Source:
    return Source(batches, partial(_digest, files), sum(file.stat().st_size for file in files), tuple(files))


def _digest(files: list[Path]) -> str:
    """Return a digest of the names and bytes of files. Places have the names; size and time do not suffice."""
    whole = hashlib.sha256()
    for file in files:
        with one_line(file), file.open("rb") as stream:
            whole.update(f"{file}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return whole.hexdigest()


def _read_one(path: Path) -> Iterator[Rows]:
    kind = _kind(path)
    if not path.stat().st_size:
        raise UserError(f"{path}: is empty")
    count = 0
    for batch in _table(path, kind) if kind in (".parquet", ".arrow") else _text(path, kind):
        count += len(batch)
        yield batch
    if not count:
        raise UserError(f"{path}: has no rows")


def _table(path: Path, kind: str) -> Iterator[Rows]:
    from softprompts.data.parquet import arrow_batches, parquet_batches  # takes a second, and few need it

    data = b"".join(_unpacked(path)) if _packed(path) else read_bytes(path)
    return numbered(str(path), (parquet_batches if kind == ".parquet" else arrow_batches)(path, data))


def numbered(name: str, batches: Iterator[list[Record]]) -> Iterator[Rows]:
    """Yield rows with their places, "NAME row N"."""
    number = 0
    for records in batches:
        yield [(f"{name} row {n}", record) for n, record in enumerate(records, start=number + 1)]
        number += len(records)


def _text(path: Path, kind: str) -> Iterator[Rows]:
    blocks = _blocks(path)
    if kind in (".csv", ".tsv"):
        return _csv(path, blocks, "\t" if kind == ".tsv" else ",")
    return _json(path, blocks) if kind == ".json" else _jsonl(path, blocks)


def _kind(path: Path) -> str:
    """Return the suffix of a file's format in lower case, without that of a compression."""
    return (Path(path.stem).suffix if _packed(path) else path.suffix).lower()


def _packed(path: Path) -> str:
    """Return the suffix of a file's compression; an empty text if it has none."""
    suffix = path.suffix.lower()
    return suffix if suffix in PACKED else ""


def _parts(path: Path) -> Iterator[bytes]:
    with one_line(path), path.open("rb") as stream:
        while part := stream.read(CHUNK):
            yield part


def _unpacked(path: Path) -> Iterator[bytes]:
    """Yield the decompressed data in parts.

    Raises:
        UserError: the file is damaged, or expands to more than half of the free memory.
    """
    source = io.BytesIO(read_bytes(path))
    free, size = psutil.virtual_memory().available, 0
    try:
        with _opened(_packed(path), source) as stream:
            while part := stream.read(CHUNK):
                size += len(part)
                if 2 * size > free:
                    raise UserError(
                        f"{path}: needs more than half of the free memory when decompressed; split the file"
                    )
                yield part
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: damaged, or not {_packed(path)[1:]}: {short(error)}") from None


def _opened(suffix: str, source: io.BytesIO) -> Any:
    if suffix == ".zst":
        import pyarrow  # a sixth of a second, and few need it

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(source, mode="r"), "zstd")
    unpack: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[suffix]
    return unpack(source)


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Raises:
        UserError: the file is not readable, not UTF-8, or contains a NUL.
    """
    return _decode(path, read_bytes(path))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are not blank, with their numbers. The file may be compressed.

    Raises:
        UserError: the file is not readable, damaged, not UTF-8, or contains a NUL.
    """
    return _lines(_blocks(path))


def _beside(path: Path) -> list[str]:
    try:
        return [str(p) for p in path.parent.glob("*") if _kind(p) in SUFFIXES and p.is_file()]
    except OSError:
        return []


def _blocks(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the text of a file in UTF-8 as blocks of whole lines, each with the number of its first line.

    A block ends in a line feed, which is never part of another character or of a longer line end.
    """
    first, rest = 1, []
    for part in _unpacked(path) if _packed(path) else _parts(path):
        cut = part.rfind(b"\n") + 1
        rest.append(part[:cut])
        if cut:
            data = b"".join(rest)
            yield first, _decode(path, data, first)
            first += data.count(b"\n")
            rest = []
        rest.append(part[cut:])
    if data := b"".join(rest):
        yield first, _decode(path, data, first)


def _decode(path: Path, data: bytes, first: int = 1) -> str:
    """Decode UTF-8, or name the line of an error; the first line has the given number."""
    try:
        text = data.decode("utf-8-sig" if first == 1 else "utf-8")
        at = data.find(b"\0")
        what = "contains a NUL byte, as in UTF-16; UTF-8 texts have none"
    except UnicodeDecodeError as error:
        # The codec counts from after a byte order mark.
        at = error.start + (3 if first == 1 and data.startswith(b"\xef\xbb\xbf") else 0)
        what = f"not UTF-8 (byte 0x{data[at]:02x})"
    if at < 0:
        return text
    hint = next((f"; it is {what}" for magic, what in MAGIC.items() if first == 1 and data.startswith(magic)), "")
    line = data.count(b"\n", 0, at) + first
    raise UserError(f"{path}:{line}: {what}{hint}")


def _jsonl(path: Path, blocks: Iterator[tuple[int, str]]) -> Iterator[Rows]:
    rows = []
    for number, line in _lines(blocks):
        try:
            row = parse_json(line)
        except JsonError as error:
            raise UserError(f"{path}:{number}: malformed JSON: {short(error)}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        check_columns(f"{path}:{number}", row)
        rows.append((f"{path}:{number}", row))
        if len(rows) == BATCH:
            yield rows
            rows = []
    yield rows


def _lines(blocks: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    last = 0
    for _, text in blocks:
        # Not splitlines(), which also splits at U+2028 and other characters that a JSON string may contain.
        lines = re.split(r"\r\n|\n|\r", text)
        for number, line in enumerate(lines, start=last + 1):
            line = line.removeprefix("\ufeff")  # joined files keep the byte order mark of each
            if line.strip():
                yield number, line
        last += len(lines) - 1


def _in_batches(rows: Rows) -> Iterator[Rows]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def _json(path: Path, blocks: Iterator[tuple[int, str]]) -> Iterator[Rows]:
    """Read an array of rows, an object that contains one, or lines.

    An array, or an object, is read at once. Lines suit very large files better.
    """
    first = next(blocks, (1, ""))
    rest = blocks
    blocks = (block for part in ([first], rest) for block in part)
    begun = first[1].lstrip("\ufeff \t\r\n")
    line, *more = re.split(r"\r\n|\n|\r", begun, maxsplit=1)
    broken = re.search(r"[\[{,:]\s*\Z", line)  # continues on the next line, unlike a row's
    if not begun.startswith("[") and not broken and more and more[0].strip():
        return _jsonl(path, blocks)
    text = "".join(text for _, text in blocks)
    try:
        value = parse_json(text.lstrip("\ufeff"))
    except JsonError as error:
        if begun.startswith("[") or broken:
            raise UserError(f"{path}: malformed JSON: {short(error)}") from None
        return _jsonl(path, iter([(1, text)]))  # whose error names the line
    if isinstance(value, list):
        return _items(str(path), value)
    if (key := _rows_key(path, value)) is not None:
        return _items(f"{path} {key}", value[key])
    if broken:
        raise UserError(f"{path}: is a JSON object without a list of objects; write rows as an array, or one per line")
    return _jsonl(path, iter([(1, text)]))


def _rows_key(path: Path, value: Any) -> str | None:
    """Return the key of an object's rows: the only key with a list of objects."""
    lists = {k: v for k, v in value.items() if isinstance(v, list)} if isinstance(value, dict) else {}
    keys = [key for key, items in lists.items() if items and all(isinstance(item, dict) for item in items)]
    if len(keys) > 1:
        raise UserError(f"{path}: has lists of objects below {listed(keys)}; put each list into a separate file")
    return keys[0] if keys else None


def _items(name: str, items: list[Any]) -> Iterator[Rows]:
    """Return rows with their places, "NAME item N"."""
    rows = []
    for number, item in enumerate(items, start=1):
        place = f"{name} item {number}"
        if not isinstance(item, dict):
            raise UserError(f"{place}: expected a JSON object, found {type(item).__name__}")
        check_columns(place, item)
        rows.append((place, item))
    return _in_batches(rows)


def _csv(path: Path, blocks: Iterator[tuple[int, str]], delimiter: str) -> Iterator[Rows]:
    """Read every field as text. Guessed types would turn "NA" into a missing value, "007" into 7, "true" into "True".

    A column without a name, such as the index of pandas, is left out because no setting could name it.
    """
    lines = (line for _, text in blocks for line in io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 1
    try:
        with _long_cells():
            header = next(reader, [])
        kept = _named_columns(path, header)
        line = reader.line_num + 1
        while True:
            rows, read = [], 0
            with _long_cells():
                for read, values in enumerate(islice(reader, BATCH), start=1):  # noqa: B007
                    if values and len(values) != len(header):
                        raise UserError(f"{path}:{line}: {len(values)} fields, but the header names {len(header)}")
                    if values and [v.removeprefix("\ufeff") for v in values] == header:
                        raise UserError(f"{path}:{line}: the header appears again")
                    if values:
                        rows.append((f"{path}:{line}", {header[n]: values[n] for n in kept}))
                    line = reader.line_num + 1
            if not read:
                return
            yield rows
    except csv.Error as error:
        raise UserError(f"{path}:{line}: malformed CSV: {error}") from None


def _named_columns(path: Path, header: list[str]) -> list[int]:
    """Return the numbers of the named columns."""
    if len(header) == 1 and (other := re.search(r"[,\t;|]", header[0])):
        named = {"\t": "tabs", ",": "commas"}.get(other[0], f'"{other[0]}"')
        advice = {"\t": "name it .tsv", ",": "name it .csv"}.get(other[0], "separate them with commas")
        raise UserError(f"{path}:1: fields are separated by {named}; {advice}")
    kept = [n for n, name in enumerate(header) if name.strip()]
    check_columns(f"{path}:1", (name if name.strip() else f"#{n}" for n, name in enumerate(header)))
    if not kept:
        raise UserError(f"{path}:1: the header names no column")
    return kept


@contextmanager
def _long_cells() -> Iterator[None]:
    """Allow cells of any length within this context only, because other code reads CSV as well."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
