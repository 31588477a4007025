"""`task.without`: named rows are in no split, no other row takes their place, and the record says so without texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import task_config
from made_tasks import Load, loader, refusal, rows_of
from softprompts.data import tables
from softprompts.data.without import fingerprint, text_of, without_file
from softprompts.errors import UserError
from softprompts.runs.fingerprints import changes
from softprompts.tasks.task import load_task

import pytest

TEXT = text_of("{text}", "{label}")


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loader(tmp_path)


def names(folder: Path, *records: dict[str, Any]) -> str:
    """Write the fingerprints of records to a file, and return its path."""
    file = folder / "without.txt"
    file.write_text(without_file(fingerprint(TEXT(record)) for record in records), encoding="utf-8")
    return str(file)


def texts(task: Any, split: str) -> list[str]:
    return [row.record["text"] for row in task.splits[split]]


def test_named_rows_are_left_out_of_every_split(load: Load, tmp_path: Path) -> None:
    rows = rows_of(4)  # validation and test have the first two as well
    task = load(train=rows, without=names(tmp_path, rows[1], rows[3]))
    assert texts(task, "train") == ["text 0", "text 2"]
    assert texts(task, "validation") == texts(task, "test") == ["text 0"]
    assert [row.place.rpartition(":")[2] for row in task.splits["train"]] == ["1", "3"], "places are those of the file"


def test_the_record_has_numbers_and_fingerprints_and_no_text(load: Load, tmp_path: Path) -> None:
    rows = rows_of(4)
    found = load(train=rows, without=names(tmp_path, rows[1], rows[3])).fingerprint()
    prints = sorted(fingerprint(TEXT(rows[n])) for n in (1, 3))
    assert found["train"]["without"] == {"rows": 2, "fingerprints": prints}
    assert found["test"]["without"] == {"rows": 1, "fingerprints": [fingerprint(TEXT(rows[1]))]}
    assert "text 1" not in json.dumps(found)
    assert all("without" not in split for split in load(train=rows).fingerprint().values())


def test_rows_are_the_same_whether_those_left_out_are_still_in_the_file(load: Load, tmp_path: Path) -> None:
    rows = rows_of(7)
    without = names(tmp_path, rows[1], rows[4], rows[6])
    task = load(train=rows, max_rows={"train": 3}, without=without)
    assert texts(task, "train") == ["text 0", "text 2", "text 3"]
    assert task.without["train"] == sorted(fingerprint(TEXT(rows[n])) for n in (1, 4)), "the last was beyond the limit"
    kept = [row for n, row in enumerate(rows) if n not in (1, 4, 6)]
    assert texts(load(train=kept, max_rows={"train": 3}, without=without), "train") == texts(task, "train")


def test_a_label_without_a_row_of_train_is_one_line(load: Load, tmp_path: Path) -> None:
    odd = {"text": "once", "label": "odd"}
    twice = odd | {"text": "twice"}
    said = refusal(load, train=[*rows_of(8), odd], test=[twice], choices="from_train", without=names(tmp_path, odd))
    assert said.endswith(
        'test.jsonl:1: task.without names all rows of train with its label " odd", which thus is no choice any more; '
        "leave out this row as well, or keep a row of train"
    )


def test_labels_of_rows_that_are_left_out_are_no_choices(load: Load, tmp_path: Path) -> None:
    rows = [*rows_of(8), {"text": "once", "label": "odd"}]
    assert load(train=rows, choices="from_train").choices == (" bad", " good", " odd")
    assert load(train=rows, choices="from_train", without=names(tmp_path, rows[8])).choices == (" bad", " good")


def test_a_row_is_known_by_its_text_before_masks(load: Load, tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer", reason="needs the extra `readiness`")
    rows = rows_of(4)
    rows[2]["text"] = "write to jane.roe@example.com"
    task = load(train=rows, pii="mask", without=names(tmp_path, rows[2]))
    assert texts(task, "train") == ["text 0", "text 1", "text 3"]


def test_a_split_without_rows_is_one_line(load: Load, tmp_path: Path) -> None:
    rows = rows_of(2)
    assert refusal(load, without=names(tmp_path, *rows)) == "task.validation: no rows are left, task.without names all"


def test_fingerprints_that_no_row_has_are_warned_of(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(4)
    load(train=rows, without=names(tmp_path, rows[3], {"text": "gone", "label": "bad"}))
    assert "task.without: left out 1 of train, 0 of validation, 0 of test" in caplog.text
    assert "task.without: no row has 1 of its 2 fingerprints" in caplog.text


def test_the_cache_of_large_data_knows_the_content_of_the_file(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LARGE", 0)
    monkeypatch.setattr(tables, "cache_folder", lambda: tmp_path / "cache")
    rows = rows_of(4)
    assert texts(load(train=rows, without=names(tmp_path, rows[3])), "train") == ["text 0", "text 1", "text 2"]
    again = load(train=rows, without=names(tmp_path, rows[2]))  # a file of the same name
    assert texts(again, "train") == ["text 0", "text 1", "text 3"]
    assert again.without["train"] == [fingerprint(TEXT(rows[2]))]


def test_a_checkpoint_of_other_rows_is_not_resumed(load: Load, tmp_path: Path) -> None:
    rows = rows_of(4)
    before, now = load(train=rows), load(train=rows, without=names(tmp_path, rows[3]))
    inputs = [
        {
            "data": {split: found | {"tokens": "same"} for split, found in task.fingerprint().items()},
            "schema": "",
            "metric_data": "",
            "metrics": {},
            "base": {"dtype": "", "weights": "", "config": {}, "tokenizer": {}, "name": ""},
            "ends": None,
        }
        for task in (before, now)
    ]
    assert changes(*inputs) == ["train had 4 rows and now has 3"]


def test_a_missing_file_is_reported_before_rows_are_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.txt: no such file"):
        load_task(task_config(tmp_path, without=str(tmp_path / "absent.txt")))
