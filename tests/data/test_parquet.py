"""Parquet files: damaged files, types that templates cannot show, columns with the same name."""

from __future__ import annotations

import io
import random
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from made_tasks import read_file
from softprompts.data import parquet
from softprompts.errors import UserError
from softprompts.tasks.templates import render

import pandas
import pyarrow
import pyarrow.parquet
import pytest

MAP = pyarrow.map_(pyarrow.string(), pyarrow.int64())
PERIODS = pandas.period_range("2024-01", periods=3, freq="M")
INTERVALS = pandas.interval_range(0, 3)


def write(path: Path, table: pyarrow.Table, **settings: Any) -> Path:
    pyarrow.parquet.write_table(table, path, **settings)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_file(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parquet_bytes(**settings: Any) -> bytes:
    table = pyarrow.table({"text": [f"text {i}" for i in range(200)], "label": [["a", "b"][i % 2] for i in range(200)]})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "odd",
    [
        pyarrow.array([[("k", 1)]] * 3, MAP),
        pyarrow.array([[[("k", 1)]]] * 3, pyarrow.list_(MAP)),
        pyarrow.StructArray.from_arrays([pyarrow.array([1, 2, 3])] * 2, names=["k", "k"]),
        pyarrow.Table.from_pandas(pandas.DataFrame({"odd": PERIODS}))["odd"],
        pyarrow.Table.from_pandas(pandas.DataFrame({"odd": INTERVALS}))["odd"],
    ],
    ids=["map", "maps in a list", "a field twice", "period", "interval"],
)
def test_c5_a_column_of_an_unknown_type_stops_nothing_unless_it_is_used(tmp_path: Path, odd: Any) -> None:
    path = write(tmp_path / "a.parquet", pyarrow.table({"text": list("abc"), "odd": odd}))
    (place, row), *_ = read_file(path)
    assert render("{text}", row, place) == "a"
    kind = pyarrow.parquet.read_table(path).schema.field("odd").type
    for template in ("{odd}", "{odd[k]}"):
        with pytest.raises(UserError) as caught:
            render(template, row, place)
        assert str(caught.value).startswith(f'{path} row 1: column "odd')
        assert f"holds values of the type {kind}"[:90] in str(caught.value)


def test_c12_a_column_twice_is_said_in_words(tmp_path: Path) -> None:
    arrays = [pyarrow.array(["x"]), pyarrow.array(["good"]), pyarrow.array(["bad"])]
    path = write(tmp_path / "a.parquet", pyarrow.Table.from_arrays(arrays, names=["text", "label", "label"]))
    assert refusal(path) == f'{path}: columns 2 and 3 have one name, "label"'


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pyarrow.array([2**64 - 1], pyarrow.uint64()), "18446744073709551615"),
        (pyarrow.array([Decimal("1.10")]), "1.10"),
        (pyarrow.array([0.1], pyarrow.float32()), "0.10000000149011612"),
        (pyarrow.array([1717158600123456789], pyarrow.timestamp("ns")), "2024-05-31 12:30:00.123456789"),
        (pyarrow.array([1717158600], pyarrow.timestamp("s", "Europe/Berlin")), "2024-05-31 14:30:00+02:00"),
        (pyarrow.array([86_405], pyarrow.duration("s")), "1 day, 0:00:05"),
        (pyarrow.array([[1, 2]]), "1, 2"),
    ],
)
def test_what_is_shown_of_numbers_and_times(tmp_path: Path, array: pyarrow.Array, text: str) -> None:
    ((place, row),) = read_file(write(tmp_path / "a.parquet", pyarrow.table({"a": array})))
    assert render("{a}", row, place) == text


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary(), pyarrow.binary(4), pyarrow.binary_view()])
def test_bytes_are_no_text(tmp_path: Path, kind: pyarrow.DataType) -> None:
    """A template would show them as "b'good'"."""
    ((place, row),) = read_file(write(tmp_path / "a.parquet", pyarrow.table({"a": pyarrow.array([b"good"], kind)})))
    with pytest.raises(UserError, match=r'row 1: column "a" holds bytes, which are not text; store it as a string$'):
        render("{a}", row, place)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a14_a_number_that_is_none_is_an_error_only_if_it_is_used(tmp_path: Path, value: float | None) -> None:
    path = write(tmp_path / "a.parquet", pyarrow.table({"text": ["a", "b"], "score": pyarrow.array([0.5, value])}))
    rows = read_file(path)
    assert [render("{text}", row, place) for place, row in rows] == ["a", "b"]
    assert render("{score}", rows[0][1], rows[0][0]) == "0.5"
    with pytest.raises(UserError, match=r'a\.parquet row 2: column "score" is (nan|inf|null)'):
        render("{score}", rows[1][1], rows[1][0])


def test_text_that_is_not_utf8_is_an_error_only_if_it_is_used(tmp_path: Path) -> None:
    broken = pyarrow.array([b"good", b"caf\xe9"]).view(pyarrow.string())
    path = write(tmp_path / "a.parquet", pyarrow.table({"text": ["a", "b"], "label": broken}))
    rows = read_file(path)
    assert [row["text"] for _, row in rows] == ["a", "b"]
    assert rows[0][1]["label"] == "good"
    with pytest.raises(UserError, match=r'row 2: column "label" holds a text that is not UTF-8'):
        render("{label}", rows[1][1], rows[1][0])


def test_the_folder_of_a_file_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "lang=de"
    folder.mkdir()
    path = write(folder / "a.parquet", pyarrow.table({"text": ["a"]}))
    assert read_file(path) == [(f"{path} row 1", {"text": "a"})]


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
def test_damaged_files_are_one_line_or_rows(tmp_path: Path, codec: str) -> None:
    """Cut files, flipped bits, removed bytes: the library raises OSError and many other errors."""
    whole, generator, path = parquet_bytes(compression=codec), random.Random(codec), tmp_path / "a.parquet"
    messages = []
    for _ in range(60):
        data = bytearray(whole)
        at = generator.randrange(len(data))
        match generator.randrange(3):
            case 0:
                del data[at:]
            case 1:
                data[at] ^= 1 << generator.randrange(8)
            case 2:
                del data[at : at + 9]
        path.write_bytes(data)
        try:
            read_file(path)
        except UserError as error:
            messages.append(str(error).removeprefix(str(path)))
    assert len(messages) > 30
    assert not [m for m in messages if "\n" in m or len(m) > 150]


@pytest.mark.parametrize("damage", [b"PAR2", b"\x1f\x8b\x08\x00", b"text"])
def test_a_file_that_is_no_parquet(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(damage + b" " * 100)
    assert refusal(path).startswith(f"{path}: not readable as parquet: ")


def test_a_page_that_was_changed_is_found_by_its_checksum(tmp_path: Path) -> None:
    whole = parquet_bytes(compression="none", use_dictionary=False, write_page_checksum=True)
    path = tmp_path / "a.parquet"
    path.write_bytes(whole.replace(b"text 77", b"text 99", 1))
    assert "not readable as parquet" in refusal(path)


def test_more_values_than_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand million equal values need only a few bytes in a file."""
    path = write(tmp_path / "a.parquet", pyarrow.table({"text": ["x"] * 100_000}))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(parquet.psutil, "virtual_memory", lambda: SimpleNamespace(total=1_000_000))
    assert refusal(path).startswith(f"{path}: 100,000 rows of 1 columns need ")
