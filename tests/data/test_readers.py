"""Rows of JSONL, CSV and Parquet files, and errors of a file with their line."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
import random
from pathlib import Path
from typing import Any

from made_tasks import read_file
from softprompts.data.parquet import rows_of
from softprompts.data.values import plain
from softprompts.errors import UserError

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
        # A CSV field is text; a template shows it in the same way.
        expected = [row | {"stars": str(row["stars"])} for row in ROWS] if name == "a.csv" else ROWS
        assert [row for _, row in read_file(tmp_path / name)] == expected, name


def test_places(tmp_path: Path) -> None:
    jsonl, table = tmp_path / "a.jsonl", tmp_path / "a.csv"
    jsonl.write_text('{"a": 1}\n\n  \n{"a": 2}\n', encoding="utf-8")
    parquet = tmp_path / "a.parquet"
    table.write_text('a\n"1\n2"\n\n3\n', encoding="utf-8")
    datasets.Dataset.from_dict({"a": [1, 2]}).to_parquet(str(parquet))
    assert [place for place, _ in read_file(jsonl)] == [f"{jsonl}:1", f"{jsonl}:4"]
    assert [place for place, _ in read_file(str(table))] == [f"{table}:2", f"{table}:5"]
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
        (
            "a.jsnl",
            b"{}",
            "{path}: unknown kind of file; names end in .jsonl, .json, .csv, .tsv, .parquet, .arrow, or if",
        ),
        ("a.txt", b"x", "{path}: unknown kind of file; names end in .jsonl, .json, .csv"),
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
    """Also if size and time stay the same, which `datasets` would regard as unchanged."""
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


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_file(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "text,label,label\nx,a,b\n", '{path}:1: columns 2 and 3 have one name, "label"'),
        ("a.csv", ",label,text, label\n0,a,b,c\n", "{path}:1: columns 2 and 4 have names that differ only in"),
        ("a.jsonl", '{"t": 1}\n{"t": 1, "t": 2}\n', '{path}:2: malformed JSON: key "t" appears twice in one object'),
        (
            "a.jsonl",
            '{"o": {"a": [{"t": 1, "t": 2}]}}',
            '{path}:1: malformed JSON: key "t" appears twice in one object',
        ),
        ("a.jsonl", '{"t": 1, "t ": 2}', "{path}:1: columns 1 and 2 have names that differ only in surrounding spaces"),
    ],
)
def test_a13_two_columns_of_one_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert refusal(path).startswith(message.format(path=path))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a14_what_is_no_value_of_json_has_its_line_and_column(tmp_path: Path, constant: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"t": 1}}\n{{"t": [{{"x": {constant}}}]}}\n', encoding="utf-8")
    assert refusal(path) == f"{path}:2: malformed JSON: {constant} is not a JSON value at column 14"


@pytest.mark.parametrize("row", ['{"t": "x\\ud83d"}', '{"\\ud83d": "x"}'])
def test_b7_half_an_emoji_has_its_line(tmp_path: Path, row: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"t": "\\ud83d\\udc4d"}}\n{row}\n', encoding="utf-8")
    assert refusal(path).startswith(f"{path}:2: malformed JSON: half of a surrogate pair: \\ud83d")


def test_b15_deep_json_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"t": ' + "[" * 2_000 + "]" * 2_000 + "}\n", encoding="utf-8")
    assert refusal(path) == f"{path}:1: malformed JSON: nested too deeply"


def test_b16_a_number_of_5000_digits_is_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"t": {"9" * 5_000}}}\n', encoding="utf-8")
    assert read_file(path) == [(f"{path}:1", {"t": "9" * 5_000})]


def test_c2_long_csv_cells_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'text,label\n"{"x" * 200_000}",a\n', encoding="utf-8")
    limit = csv.field_size_limit()
    assert len(read_file(path)[0][1]["text"]) == 200_000
    assert csv.field_size_limit() == limit, "others read CSV, too"


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    """For example of pandas' index, and of a spreadsheet's trailing commas."""
    path = tmp_path / "a.csv"
    path.write_text(",text,label,, \n0,x,a,,\n1,y,b,,\n", encoding="utf-8")
    assert [row for _, row in read_file(path)] == [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text\tlabel\nx\ta\n", "{path}:1: fields are separated by tabs; name it .tsv"),
        ("a.csv", b"text;label\nx, y;a\n", '{path}:1: fields are separated by ";"; separate them with commas'),
        ("a.csv", b"text,label\nx,a\n\ntext,label\ny,b\n", "{path}:4: the header appears again"),
        ("a.csv", b"text,label\nx,a\n\xef\xbb\xbftext,label\n", "{path}:3: the header appears again"),
        ("a.csv", b" ,\n1,2\n", "{path}:1: the header names no column"),
        ("a.csv", b"text\nx\0y\n", "{path}:2: contains a NUL byte"),
        ("a.csv", "text,label\n".encode("utf-16-le"), "{path}:1: contains a NUL byte, as in UTF-16"),
        ("a.jsonl", '{"t": 1}'.encode("utf-16"), "{path}:1: not UTF-8 (byte 0xff); it is UTF-16: save it as UTF-8"),
        (
            "a.jsonl",
            gzip.compress(b'{"t": 1}', mtime=0),
            "{path}:1: not UTF-8 (byte 0x8b); it is gzip: let its name end in .gz",
        ),
        ("a.csv", bz2.compress(b"t\nx\n" * 99), "bzip2: let its name end in .bz2"),
        ("a.jsonl", lzma.compress(b'{"t": 1}'), "; it is xz: let its name end in .xz"),
        ("a.jsonl", b"\xef\xbb\xbf{}\ncaf\xe9", "{path}:2: not UTF-8 (byte 0xe9)"),
        ("a.jsonl", b'{"t": 1,}', "{path}:1: malformed JSON: "),
        ("a.jsonl", b'{"t": 1} # one', "{path}:1: malformed JSON: Extra data at column 10"),
    ],
)
def test_files_of_another_kind_say_which(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message.format(path=path) in refusal(path)


@pytest.mark.parametrize("content", [b'{"t": "x"}\r{"t": "y"}\r', b'{"t": "x"}\n\xef\xbb\xbf{"t": "y"}\n'])
def test_jsonl_with_lone_carriage_returns_or_marks_of_joined_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert read_file(path) == [(f"{path}:1", {"t": "x"}), (f"{path}:2", {"t": "y"})]


def test_a_folder_with_the_name_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.mkdir()
    assert (
        refusal(path)
        == f"{path}: the folder holds no file whose name ends in .jsonl, .json, .csv, .tsv, .parquet, .arrow"
    )


@pytest.mark.parametrize(
    ("name", "said"), [("x" * 300 + ".jsonl", "File name too long"), ("a\0b.csv", "cannot be the path of a file")]
)
def test_names_that_no_file_can_have(tmp_path: Path, name: str, said: str) -> None:
    assert said in refusal(tmp_path / name)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"x")

    def deny(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)  # root, as in a container, may read all
    assert refusal(path) == f"{path}: Permission denied"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_damaged_texts_are_one_line_or_rows(tmp_path: Path, name: str) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS) if "json" in name else 'a,b\r\nx,"y\n"\n'
    whole, generator, path = text.encode(), random.Random(name), tmp_path / name
    inserted = [b"NaN", b"\\ud83d", b"\0", b"\xff", b"[" * 3_000, b'"', b",", b"\r", b"9" * 5_000, b"\xef\xbb\xbf"]
    messages = []
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(generator.choice([1, 1, 3])):
            at = generator.randrange(len(data))
            data[at : at + generator.randrange(3)] = generator.choice(inserted)
        path.write_bytes(data)
        try:
            read_file(path)
        except UserError as error:
            messages.append(str(error).removeprefix(str(path)))
    assert len(messages) > 100
    assert not [m for m in messages if "\n" in m or len(m) > 150]
