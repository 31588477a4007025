"""Read rows from files and folders of JSON, CSV, Parquet and Arrow, naming file and line of whatever is wrong."""

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
CHUNK = 2**20  # bytes of a text that are in memory at a time
BATCH = 1000  # rows
LONGEST_CELL = 2**31 - 1

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

Rows = list[tuple[str, Record]]  # each with the place that it came from


@dataclass(frozen=True)
class Source:
    """Rows that can be read again and again, a batch at a time.

    batches: reads them, in order; content: returns a digest of what is read; size: bytes of it, packed if it is packed.
    """

    batches: Callable[[], Iterator[Rows]]
    content: Callable[[], str]
    size: int


def open_file(path: str | Path) -> Source:
    """Return the rows of a file, of all files of a folder, or of those that a pattern such as *.jsonl fits.

    Files may be packed (.gz, .bz2, .xz, .zst). A folder may also be what `datasets` saves to disk. The place of a row
    is "FILE:LINE"; "FILE row N", from 1, for Parquet and Arrow; "FILE item N" for an array in JSON, and
    "FILE data item N" for one below a key, as in {"data": [...]}.

    Raises:
        UserError: no such file; unknown suffix; a folder without such files, or a pattern that fits none. When it is
            read: empty file, not UTF-8, malformed line, two columns of one name; a file that may not be read, or is
            damaged.
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
            raise UserError(f"{path}: no file fits this pattern")
    elif is_file(path):
        shards = [path]
    else:
        raise UserError(f"no such file: {path}{nearest(str(path), _beside(path))}")
    for shard in shards:
        if _kind(shard) not in SUFFIXES:
            packed = ", ".join(PACKED)
            raise UserError(
                f"{shard}: unknown kind of file; names end in {', '.join(SUFFIXES)}, and if packed in {packed}"
            )
    return _source(shards, lambda: (batch for shard in shards for batch in _read_one(shard)))


def _shards(folder: Path) -> list[Path]:
    """Return the data files of a folder; hidden ones, as editors and other systems leave, are none.

    Raises:
        UserError: there are none, or the folder has splits below it; data in folders below is not read.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = [str(p.parent) for p in sorted(folder.glob("*/state.json"))]
        raise UserError(f"{folder}: holds several splits; name one of them: {', '.join(splits) or 'none is complete'}")
    below = [p for p in sorted(folder.glob("*/**/*")) if _kind(p) in SUFFIXES and is_file(p)]
    hidden = [p for p in below if any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if len(below) > len(hidden):
        seen = next(p for p in below if p not in hidden)
        raise UserError(
            f"{folder}: has data in folders below it, {seen} for one; name a pattern: {folder}/*{_kind(seen)} without "
            f"them, {folder}/**/*{_kind(seen)} with them"
        )
    found = sorted(p for p in folder.iterdir() if _kind(p) in SUFFIXES and is_file(p) and not p.name.startswith("."))
    if not found:
        raise UserError(f"{folder}: the folder holds no file whose name ends in {', '.join(SUFFIXES)}")
    return found


def _source(files: list[Path], batches: Callable[[], Iterator[Rows]]) -> Source:
    return Source(batches, partial(_digest, files), sum(file.stat().st_size for file in files))


def _digest(files: list[Path]) -> str:
    """Return a digest of the names and bytes of files: places name the files, and neither size nor time says enough."""
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
    """Return what a file's name says that is in it, in small letters, whatever it is packed with."""
    return (Path(path.stem).suffix if _packed(path) else path.suffix).lower()


def _packed(path: Path) -> str:
    """Return what a file's name says that it is packed with; an empty text if it is not."""
    suffix = path.suffix.lower()
    return suffix if suffix in PACKED else ""


def _parts(path: Path) -> Iterator[bytes]:
    with one_line(path), path.open("rb") as stream:
        while part := stream.read(CHUNK):
            yield part


def _unpacked(path: Path) -> Iterator[bytes]:
    """Yield what was packed, in parts.

    Raises:
        UserError: it is damaged, or larger than the memory that is free: a few bytes can stand for very many.
    """
    source = io.BytesIO(read_bytes(path))
    free, size = psutil.virtual_memory().available, 0
    try:
        with _opened(_packed(path), source) as stream:
            while part := stream.read(CHUNK):
                size += len(part)
                if 2 * size > free:
                    raise UserError(f"{path}: unpacked it takes more than half of the free memory; split the file")
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
        UserError: it may not be read; it is not UTF-8, or holds a NUL.
    """
    return _decode(path, read_bytes(path))


def _beside(path: Path) -> list[str]:
    try:
        return [str(p) for p in path.parent.glob("*") if _kind(p) in SUFFIXES and p.is_file()]
    except OSError:
        return []


def _blocks(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the text of a file in UTF-8 as blocks of whole lines, each with the number of its first line.

    A block ends in a line feed, which is never part of another character, nor of a line end that goes on.
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
    """Return a text whose first line has this number."""
    try:
        text = data.decode("utf-8-sig" if first == 1 else "utf-8")
        at = data.find(b"\0")
        what = "holds a NUL byte, as UTF-16 does, and no text in UTF-8"
    except UnicodeDecodeError as error:
        # The codec counts from behind a byte order mark.
        at = error.start + (3 if first == 1 and data.startswith(b"\xef\xbb\xbf") else 0)
        what = f"not UTF-8 (byte 0x{data[at]:02x})"
    if at < 0:
        return text
    hint = next((f"; it is {what}" for magic, what in MAGIC.items() if first == 1 and data.startswith(magic)), "")
    line = data.count(b"\n", 0, at) + first
    raise UserError(f"{path}:{line}: {what}{hint}")


def _jsonl(path: Path, blocks: Iterator[tuple[int, str]]) -> Iterator[Rows]:
    last = 0
    for _, text in blocks:
        # Not splitlines(): a JSON string may hold U+2028 and other characters that it takes for line ends.
        lines = re.split(r"\r\n|\n|\r", text)
        rows = []
        for number, line in enumerate(lines, start=last + 1):
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
            if len(rows) == BATCH:
                yield rows
                rows = []
        last += len(lines) - 1
        yield rows


def _in_batches(rows: Rows) -> Iterator[Rows]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def _json(path: Path, blocks: Iterator[tuple[int, str]]) -> Iterator[Rows]:
    """Read an array of rows, an object that holds one, or lines.

    An array, or an object, is read all at once: whoever has very many rows had better write lines.
    """
    first = next(blocks, (1, ""))
    rest = blocks
    blocks = (block for part in ([first], rest) for block in part)
    begun = first[1].lstrip("\ufeff \t\r\n")
    line, *more = re.split(r"\r\n|\n|\r", begun, maxsplit=1)
    broken = re.search(r"[\[{,:]\s*\Z", line)  # goes on in the next line, as that of no row does
    if not begun.startswith("[") and not broken and more and more[0].strip():
        return _jsonl(path, blocks)
    text = "".join(text for _, text in blocks)
    try:
        value = parse_json(text.lstrip("\ufeff"))
    except JsonError as error:
        if begun.startswith("[") or broken:
            raise UserError(f"{path}: malformed JSON: {short(error)}") from None
        return _jsonl(path, iter([(1, text)]))  # which says where
    if isinstance(value, list):
        return _items(str(path), value)
    if (key := _rows_key(path, value)) is not None:
        return _items(f"{path} {key}", value[key])
    if broken:
        raise UserError(
            f"{path}: is one JSON object without a list of objects in it; write rows as an array, or in lines"
        )
    return _jsonl(path, iter([(1, text)]))


def _rows_key(path: Path, value: Any) -> str | None:
    """Return the key of an object below which the rows are: the only one with a list of objects."""
    lists = {k: v for k, v in value.items() if isinstance(v, list)} if isinstance(value, dict) else {}
    keys = [key for key, items in lists.items() if items and all(isinstance(item, dict) for item in items)]
    if len(keys) > 1:
        raise UserError(f"{path}: has lists of objects below {listed(keys)}; give each list a file of its own")
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
    """Read every field as text: guessing types would turn "NA" into nothing, "007" into 7 and "true" into "True".

    A column without a name, as pandas writes its index, is left out: no setting could name it.
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
                        raise UserError(f"{path}:{line}: the header stands here once more")
                    if values:
                        rows.append((f"{path}:{line}", {header[n]: values[n] for n in kept}))
                    line = reader.line_num + 1
            if not read:
                return
            yield rows
    except csv.Error as error:
        raise UserError(f"{path}:{line}: malformed CSV: {error}") from None


def _named_columns(path: Path, header: list[str]) -> list[int]:
    """Return the numbers of the columns that have a name."""
    if len(header) == 1 and (other := re.search(r"[,\t;|]", header[0])):
        named = {"\t": "tabs", ",": "commas"}.get(other[0], f'"{other[0]}"')
        advice = {"\t": "name it .tsv", ",": "name it .csv"}.get(other[0], "write them with commas")
        raise UserError(f"{path}:1: fields are parted by {named}; {advice}")
    kept = [n for n, name in enumerate(header) if name.strip()]
    check_columns(f"{path}:1", (name if name.strip() else f"#{n}" for n, name in enumerate(header)))
    if not kept:
        raise UserError(f"{path}:1: the header names no column")
    return kept


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let cells be of any length within this context only: others read CSV, too."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
