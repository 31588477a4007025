"""Datasets of the Hub that are streamed: the same rows, without the shards that nobody needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softprompts.config.sections import TaskConfig
from softprompts.errors import UserError
from softprompts.tasks.task import load_task

import datasets
import pytest
from datasets import ClassLabel, Features, Value

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
SHARD = 1500  # more than a batch
SPLITS = {"train": 3, "validation": 1, "test": 1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a dataset as the Hub has it: three shards of train, one of each other split."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split, shards in SPLITS.items():
        for shard in range(shards):
            write(tmp_path / "set", split, shard, shards)
    return tmp_path / "set"


def write(folder: Path, split: str, shard: int, shards: int, word: str = "row") -> None:
    rows = {"text": [f"{word} {split} {shard} {n}" for n in range(SHARD)], "label": [n % 2 for n in range(SHARD)]}
    file = folder / "data" / f"{split}-{shard:05}-of-{shards:05}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=FEATURES).to_parquet(str(file))


def config(folder: Path, **changes: Any) -> TaskConfig:
    settings: dict[str, Any] = {
        "dataset": str(folder),
        "train": "train",
        "validation": "validation",
        "test": "test",
        "choices": [" no", " yes"],
        "streaming": True,
        "max_rows": {"train": 2000, "validation": 100, "test": 200},
    }
    return TaskConfig("{text}", " {label}", **(settings | changes))


def test_the_rows_are_those_of_a_copy(folder: Path) -> None:
    streamed, copied = (load_task(config(folder, streaming=streaming)) for streaming in (True, False))
    assert {name: len(rows) for name, rows in streamed.splits.items()} == {
        "train": 2000,
        "validation": 100,
        "test": 200,
    }
    assert streamed.fingerprint() == copied.fingerprint()
    assert streamed.splits["train"][1999].prompt == "row train 1 499", "shard after shard"
    assert streamed.splits["train"][1999].target == " yes"


def test_shards_that_nobody_needs_are_not_read(folder: Path) -> None:
    last = folder / "data" / "train-00002-of-00003.parquet"
    last.write_bytes(b"PAR1 not a table PAR1")
    assert len(load_task(config(folder)).splits["train"]) == 2000
    with pytest.raises(UserError, match="set: not readable as a stream of rows: "):
        load_task(config(folder, max_rows={"train": 3100, "validation": 100, "test": 200}))


def test_without_a_bound_train_is_read_to_its_end(folder: Path) -> None:
    task = load_task(config(folder, max_rows={"validation": 100, "test": 200}))
    assert len(task.splits["train"]) == 3 * SHARD


def test_rows_are_held_out_of_a_stream(folder: Path) -> None:
    task = load_task(config(folder, validation=None))
    assert len(task.splits["validation"]) == 100
    held = {row.prompt for row in task.splits["validation"]}
    assert held.isdisjoint(row.prompt for row in task.splits["train"])


def test_kept_rows_are_used_until_a_shard_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_task(config(folder)).splits["train"][0].prompt
    assert first == "row train 0 0"
    with monkeypatch.context() as patched:
        patched.setattr(datasets.IterableDataset, "iter", None)  # a second reading would fail
        assert load_task(config(folder)).splits["train"][0].prompt == first
    write(folder, "train", 0, SPLITS["train"], word="other")
    assert load_task(config(folder)).splits["train"][0].prompt == "other train 0 0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_rows": {}},
            r"task\.streaming: task\.max_rows has no validation, test; e\.g\. \{validation: 500, test: 1000\}",
        ),
        ({"max_rows": {"test": 5}}, r"task\.streaming: task\.max_rows has no validation; "),
        ({"dataset": "embedded:sentiment"}, r"task\.streaming: applies only to datasets of the Hub"),
        ({"dataset": None, "train": "rows.jsonl"}, r"task\.streaming: applies only to datasets of the Hub"),
        ({"train": "train[:1000]"}, r"task\.dataset: cannot load .*: Bad split: train\[:1000\]\. Available splits"),
        ({"dataset": "no/such"}, r"task\.dataset: cannot load no/such: "),
    ],
)
def test_what_cannot_be_streamed_is_one_line(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task(config(folder, **changes))
