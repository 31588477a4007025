"""Files of every kind, compressed or not, in folders and by patterns: the same rows, or one line with the place."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path

from made_tasks import read_file
from softprompts.data import readers
from softprompts.errors import UserError

import datasets
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

ROWS = [{"text": "a film", "label": "good"}, {"text": "Käse, \u2028 and\nmore", "label": "007"}]


def jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")


def array(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False), encoding="utf-8")


def separated(delimiter: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        lines = [delimiter.join(f'"{value}"' for value in values) for values in [ROWS[0], *(r.values() for r in ROWS)]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")

    return write


def parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


def arrow(stream: bool) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        table = pyarrow.Table.from_pylist(ROWS)
        opened = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
        with pyarrow.OSFile(str(path), "wb") as file, opened(file, table.schema) as writer:
            writer.write_table(table)

    return write


KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "JSON lines": (".jsonl", jsonl),
    "JSON lines in .json": (".json", jsonl),
    "JSON array": (".json", array),
    "CSV": (".csv", separated(",")),
    "TSV": (".tsv", separated("\t")),
    "Parquet": (".parquet", parquet),
    "Arrow file": (".arrow", arrow(stream=False)),
    "Arrow stream": (".arrow", arrow(stream=True)),
}
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("packed", ["", *PACK])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows(tmp_path: Path, kind: str, packed: str) -> None:
    suffix, write = KINDS[kind]
    path = tmp_path / f"rows{suffix}"
    write(path)
    if packed:
        data = path.read_bytes()
        path = path.with_name(path.name + packed)
        path.write_bytes(PACK[packed](data))
    rows = read_file(path)
    assert [row for _, row in rows] == ROWS
    assert all(place.startswith(str(path)) for place, _ in rows)
    assert len({place for place, _ in rows}) == 2


def test_a_folder_and_a_pattern_are_read_in_order_of_their_names(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        (tmp_path / f"part-{number}.jsonl").write_text(json.dumps({"n": number}) + "\n")
    (tmp_path / "notes.md").write_text("not rows")
    for path in (tmp_path, tmp_path / "part-*.jsonl", tmp_path / "**" / "*.jsonl"):
        assert [row["n"] for _, row in read_file(path)] == [0, 1, 2]
    assert [row["n"] for _, row in read_file(tmp_path / "part-[12].jsonl")] == [1, 2]
    assert read_file(tmp_path)[0][0] == f"{tmp_path / 'part-0.jsonl'}:1"


def test_a_name_with_the_signs_of_a_pattern_is_a_name(tmp_path: Path) -> None:
    jsonl(tmp_path / "rows[1].jsonl")
    assert len(read_file(tmp_path / "rows[1].jsonl")) == 2


def test_what_datasets_saves_to_disk_is_read_with_the_names_of_its_labels(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).save_to_disk(
        str(tmp_path / "d")
    )
    assert [row["label"] for _, row in read_file(tmp_path / "d")] == ["yes", "no"]
    (tmp_path / "d" / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"^.*d: not readable as a saved dataset: "):
        read_file(tmp_path / "d")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[1, 2]", r"a\.json item 1: expected a JSON object, found int"),
        ("a.json", b'[{"a": 1}, {"a": NaN}]', r"a\.json: malformed JSON: NaN is not a JSON value"),
        ("a.json", b'[{"a": 1, "a": 2}]', r'a\.json: malformed JSON: key "a" appears twice'),
        ("a.json", b"[]", r"a\.json: has no rows"),
        ("a.json", b'{"a": 1}\n{"a"', r"a\.json:2: malformed JSON"),
        ("a.tsv", b"a,b\n1,2\n", r"a\.tsv:1: fields are separated by commas; name it \.csv"),
        ("a.csv", b"a\tb\n1\t2\n", r"a\.csv:1: fields are separated by tabs; name it \.tsv"),
        ("a.jsonl.gz", b'{"a": 1}\n', r"a\.jsonl\.gz: damaged, or not gz"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], r"a\.jsonl\.gz: damaged, or not gz"),
        ("a.jsonl.bz2", b"BZh91", r"a\.jsonl\.bz2: damaged, or not bz2"),
        ("a.jsonl.xz", b"nothing", r"a\.jsonl\.xz: damaged, or not xz"),
        ("a.jsonl.zst", b"nothing", r"a\.jsonl\.zst: damaged, or not zst"),
        ("a.arrow", b"ARROW1 and then nothing", r"a\.arrow: not readable as arrow"),
        ("a.txt.gz", gzip.compress(b"a", mtime=0), r"a\.txt\.gz: unknown kind of file"),
        ("a.xlsx", b"PK\x03\x04", r"a\.xlsx: unknown kind of file"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_error_in_a_shard_names_the_shard(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"text": 1}\n{\n')
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'b.jsonl'}:2: malformed JSON")):
        read_file(tmp_path)


def test_a_folder_or_pattern_without_files_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the folder holds no file whose name ends in \.jsonl"):
        read_file(tmp_path)
    with pytest.raises(UserError, match=r"no file matches this pattern"):
        read_file(tmp_path / "*.jsonl")


def test_hidden_files_of_a_folder_are_no_data(tmp_path: Path) -> None:
    """Editors, version control and other systems leave them."""
    jsonl(tmp_path / "a.jsonl")
    for name in (".b.jsonl", "._a.jsonl"):
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / ".cache").mkdir()
    jsonl(tmp_path / ".cache" / "c.jsonl")
    assert len(read_file(tmp_path)) == 2


def test_data_in_folders_below_is_not_left_out_without_a_word(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl")
    (tmp_path / "more").mkdir()
    jsonl(tmp_path / "more" / "b.jsonl")
    with pytest.raises(UserError, match=r"has data in folders below it, for example .*more/b.jsonl; name a pattern: "):
        read_file(tmp_path)
    assert len(read_file(tmp_path / "*.jsonl")) == 2
    assert len(read_file(tmp_path / "**" / "*.jsonl")) == 4


def test_a_folder_of_several_saved_splits_names_them(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([{"a": "x"}, {"a": "y"}])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"saved: holds several splits; .*: .*saved/test, .*saved/train$"):
        read_file(tmp_path / "saved")
    assert len(read_file(tmp_path / "saved" / "train")) == 2


def test_a_file_that_unpacks_to_more_than_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 1000))
    monkeypatch.setattr(readers.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000})())
    with pytest.raises(UserError, match="more than half of the free memory"):
        read_file(tmp_path / "a.jsonl.gz")


@pytest.mark.parametrize("position", range(0, 600, 7))
def test_damaged_arrow_is_one_line_or_rows(tmp_path: Path, position: int) -> None:
    arrow(stream=False)(tmp_path / "a.arrow")
    data = bytearray((tmp_path / "a.arrow").read_bytes())
    data[position % len(data)] ^= 0xFF
    (tmp_path / "a.arrow").write_bytes(data)
    said = ""
    try:
        assert len(read_file(tmp_path / "a.arrow")) <= 2
    except UserError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize("name", ["A.CSV", "A.Csv.GZ"])
def test_letters_of_a_suffix_may_be_large(name: str, tmp_path: Path) -> None:
    text = b"text,label\na film,good\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("GZ") else text)
    assert read_file(tmp_path / name) == [(f"{tmp_path / name}:2", ROWS[0])]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("more", [{}, {"version": "1.1", "tags": ["a"], "splits": []}])
def test_rows_may_be_below_a_key_of_a_json_object(more: dict[str, object], indent: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(more | {"data": ROWS}, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert read_file(path) == [(f"{path} data item {n}", row) for n, row in enumerate(ROWS, start=1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"train": [{"a": 1}], "test": [{"a": 2}]}',
            "has lists of objects below train, test; put each list",
        ),
        ('{\n "text": {"0": "a"}\n}', "is a JSON object without a list of objects; write rows as an array, or"),
        ('{\n "data": [\n  {"a" 1}\n]}', "malformed JSON: Expecting ':' delimiter at line 3 column 8"),
    ],
)
def test_a_json_object_that_holds_no_rows_is_said(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_one_object_in_one_line_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS[0]), encoding="utf-8")
    assert read_file(path) == [(f"{path}:1", ROWS[0])]
