"""Rows of JSONL, CSV and Parquet files, and what is wrong with a file, to the line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from softprompts.errors import UserError
from softprompts.parquet import rows_of
from softprompts.readers import read_file
from softprompts.values import plain

import datasets
import pytest

ROWS: list[dict[str, Any]] = [
    {"text": "a film, with a comma", "label": "positive", "stars": 5},
    {"text": 'a "quoted"\nline', "label": "negative", "stars": 1},
    {"text": "Grüße – naïve 電影", "label": "positive", "stars": 4},
]


def test_the_three_kinds_of_file_give_equal_rows(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    table.to_csv(str(tmp_path / "a.csv"))
    table.to_parquet(str(tmp_path / "a.parquet"))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(r) for r in ROWS), encoding="utf-8")
    for name in ("a.csv", "a.parquet", "a.jsonl"):
        # A CSV field is text: what a template makes of it is the same.
        expected = [row | {"stars": str(row["stars"])} for row in ROWS] if name == "a.csv" else ROWS
        assert [row for _, row in read_file(tmp_path / name)] == expected, name


def test_places(tmp_path: Path) -> None:
    jsonl, csv = tmp_path / "a.jsonl", tmp_path / "a.csv"
    jsonl.write_text('{"a": 1}\n\n  \n{"a": 2}\n', encoding="utf-8")
    parquet = tmp_path / "a.parquet"
    csv.write_text('a\n"1\n2"\n\n3\n', encoding="utf-8")
    datasets.Dataset.from_dict({"a": [1, 2]}).to_parquet(str(parquet))
    assert [place for place, _ in read_file(jsonl)] == [f"{jsonl}:1", f"{jsonl}:4"]
    assert [place for place, _ in read_file(str(csv))] == [f"{csv}:2", f"{csv}:5"]
    assert [place for place, _ in read_file(parquet)] == [f"{parquet} row 1", f"{parquet} row 2"]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x1e"])
def test_a_string_may_hold_what_python_takes_for_a_line_end(tmp_path: Path, character: str) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"one{character}two"}, {"text": "three"}]
    path.write_text("\n".join(json.dumps(r, ensure_ascii=character < " ") for r in rows), encoding="utf-8")
    assert [row for _, row in read_file(path)] == rows


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", '{"text": "x"}\r\n{"text": "y"}\r\n'), ("a.csv", "text\r\nx\r\ny\r\n")]
)
def test_byte_order_mark_and_windows_line_ends(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [row for _, row in read_file(path)] == [{"text": "x"}, {"text": "y"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"t": "x"}\n{"t": "caf\xe9"}\n', "{path}:2: not UTF-8 (byte 0xe9)"),
        ("a.csv", b"t\nx\ncaf\xe9\n", "{path}:3: not UTF-8 (byte 0xe9)"),
        ("a.jsonl", b'{"t": "x"}\n{"t": }\n', "{path}:2: malformed JSON: Expecting value at column 7"),
        ("a.jsonl", b'{"t": "x"} {"t": "y"}\n', "{path}:1: malformed JSON: Extra data at column 12"),
        ("a.jsonl", b'{"t": "x"}\n\n["y"]\n', "{path}:3: expected a JSON object, found list"),
        ("a.jsonl", b"", "{path}: is empty"),
        ("a.csv", b"", "{path}: is empty"),
        ("a.parquet", b"", "{path}: is empty"),
        ("a.jsonl", b"\n \n", "{path}: has no rows"),
        ("a.csv", b"a,b\n", "{path}: has no rows"),
        ("a.json", b"{}", '{path}: unknown kind of file (did you mean ".jsonl"?)'),
        ("a.txt", b"x", "{path}: unknown kind of file"),
        ("a.parquet", b"PAR1 but not really", "{path}: not readable as parquet: "),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "{path}:3: 3 fields, but the header names 2"),
        ("a.csv", b'a,b\n1,"2"x\n', "{path}:2: malformed CSV: "),
        ("a.csv", b'a,b\n1,2\n1,"2\n', "{path}:3: malformed CSV: "),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_file(path)
    assert str(caught.value).startswith(message.format(path=path))
    assert "\n" not in str(caught.value)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "trani.txt").touch()
    with pytest.raises(UserError) as caught:
        read_file(tmp_path / "trian.jsonl")
    assert f'did you mean "{tmp_path / "train.jsonl"}"?' in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_file(tmp_path / "no" / "train.jsonl")
    assert str(caught.value) == f"no such file: {tmp_path / 'no' / 'train.jsonl'}"


def test_class_labels_become_their_names(tmp_path: Path) -> None:
    """As `datasets` stores labels: numbers, with -1 or None for a hidden one."""
    label = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    table = datasets.Dataset.from_dict({"text": list("abcd"), "label": [1, 0, -1, None]}, features=features)
    assert [row["label"] for row in rows_of(table)] == ["pos", "neg", None, None]
    table.to_parquet(str(tmp_path / "a.parquet"))
    assert [row["label"] for _, row in read_file(tmp_path / "a.parquet")] == ["pos", "neg", None, None]


LABEL = datasets.ClassLabel(names=["neg", "pos"])


@pytest.mark.parametrize(
    ("feature", "stored", "expected"),
    [
        (datasets.List(LABEL), [1, 0], ["pos", "neg"]),
        (datasets.Sequence(LABEL), [], []),
        (datasets.LargeList(LABEL), [0], ["neg"]),
        (datasets.List(LABEL), None, None),
        (datasets.List(datasets.List(LABEL)), [[1], []], [["pos"], []]),
        ({"by": LABEL, "n": datasets.Value("int64")}, {"by": 1, "n": 1}, {"by": "pos", "n": 1}),
        (datasets.List({"by": LABEL}), [{"by": 0}, {"by": -1}], [{"by": "neg"}, {"by": None}]),
        (datasets.Sequence({"by": LABEL}), {"by": [1, 1]}, {"by": ["pos", "pos"]}),
        (datasets.Translation(["de", "en"]), {"de": "ja", "en": "yes"}, {"de": "ja", "en": "yes"}),
        (datasets.Value("int64"), -1, -1),
    ],
)
def test_class_labels_inside_other_values(feature: Any, stored: Any, expected: Any) -> None:
    table = datasets.Dataset.from_dict({"a": [stored]}, features=datasets.Features({"a": feature}))
    assert rows_of(table) == [{"a": expected}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a", 1, True], "a, 1, True"),
        ([], "none"),
        ([["a", "b"], []], "a, b, none"),
        ({"ä": [1, None]}, '{"ä": [1, null]}'),
        ([{"a": 1}], '{"a": 1}'),
        ("text", "text"),
        (5, 5),
        (None, None),
    ],
)
def test_plain_values(value: Any, expected: Any) -> None:
    assert plain(value) == expected


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_changed_on_disk_is_read_anew(tmp_path: Path, suffix: str) -> None:
    """Also where size and time stay what they were, which `datasets` would take for unchanged."""
    path = tmp_path / f"a.{suffix}"
    for text in ("good", "poor"):
        table = datasets.Dataset.from_dict({"text": [text]})
        getattr(table, f"to_{suffix}")(str(path))
        os.utime(path, (1_000_000, 1_000_000))
        assert [row for _, row in read_file(path)] == [{"text": text}]


@pytest.mark.parametrize("value", ["", "NA", "null", "None", "007", "true", "1e3", " x "])
def test_a_field_of_a_csv_stays_the_text_that_it_is(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\nx,{value}\n", encoding="utf-8")
    assert read_file(path)[0][1] == {"text": "x", "label": value}
