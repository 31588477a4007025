"""The rows of each split: their sources, filters, renamed columns, and rows held out of train."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

from softprompts.config.sections import TaskConfig
from softprompts.data import sources as splits
from softprompts.data.readers import Rows
from softprompts.data.sources import Reading, open_sources
from softprompts.errors import UserError, notice

import datasets
import pytest


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def rows_of(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": ["bad", "good"][i % 2]} | more for i in range(count)]


def read(**settings: Any) -> dict[str, Rows]:
    config = TaskConfig(prompt="", target="", **settings)
    reading = Reading(config, open_sources(config))
    found: dict[str, Rows] = {split: [] for split in splits.SPLITS}
    for given in reading.sources:
        for batch in reading.rows(given):
            for split, place, record in batch:
                found[split].append((place, record))
    reading.check()
    for text in reading.held_out:
        notice(text)
    return found


def refusal(**settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(**settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def column(rows: Rows, name: str) -> list[Any]:
    return [record[name] for _, record in rows]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Paths of three files with four rows each."""
    return {split: write(tmp_path / f"{split}.jsonl", rows_of(4)) for split in splits.SPLITS}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": {"domain": ["x"]}}, 'task.where: no column "domain"; columns are: text, label'),
        ({"where": {"label": ["goood"]}}, 'task.where: no train row has label "goood" (did you mean "good"?)'),
        ({"max_rows": {"tset": 1}}, 'task.max_rows: unknown split "tset" (did you mean "test"?)'),
        ({"max_rows": {"test": 0}}, "task.max_rows: test: expected a number above 0, found 0"),
        ({"max_rows": {"test": -1}}, "task.max_rows: test: expected a number above 0, found -1"),
        ({"validation": "nowhere.jsonl"}, "no such file: nowhere.jsonl"),
        ({"dataset": "embedded:sentimnt"}, '(did you mean "embedded:sentiment"?)'),
        ({"train": None}, "task: set dataset, or train to a file"),
        ({"rename": {"txt": "body"}}, 'task.rename: no split has a column "txt" (did you mean "text"?)'),
        (
            {"rename": {"text": "label"}},
            'train.jsonl:1: task.rename: there would be two columns "label"; columns are: text, label',
        ),
        ({"rename": {"text": "body"}, "where": {"text": ["x"]}}, 'no column "text"; columns are: body, label'),
        ({"other_datasets": {"tset": "a/b"}}, 'task.other_datasets: unknown split "tset" (did you mean "test"?)'),
    ],
)
def test_mistakes_are_one_line(files: dict[str, str], settings: dict[str, Any], message: str) -> None:
    assert message in refusal(**files | settings)


def test_where_keeps_the_rows_that_read_so(files: dict[str, str], tmp_path: Path) -> None:
    years = write(tmp_path / "years.jsonl", [*rows_of(3, year=2020), *rows_of(3, year=2021)])
    found = read(train=years, validation=years, test=years, where={"year": ["2021"]})
    assert column(found["train"], "year") == [2021, 2021, 2021]
    assert column(found["train"], "text") == ["text 0", "text 1", "text 2"]
    assert (len(found["validation"]), len(found["test"])) == (3, 3)


def test_where_compares_what_a_template_would_show(files: dict[str, str], tmp_path: Path) -> None:
    lists = write(tmp_path / "lists.jsonl", [{"tags": []}, {"tags": ["a", "b"]}, {"tags": ["b"]}])
    found = read(train=lists, validation=lists, test=lists, where={"tags": ["none", "a, b"]})
    assert column(found["train"], "tags") == [[], ["a", "b"]]


def test_rename_gives_each_split_that_has_a_column_its_new_name(files: dict[str, str], tmp_path: Path) -> None:
    query = write(tmp_path / "query.jsonl", [{"query": "q", "label": "bad"}, {"text": "t", "label": "good"}])
    found = read(**files | {"train": query}, rename={"query": "text", "label": "answer"}, where={"answer": ["good"]})
    assert [record for _, record in found["train"]] == [{"text": "t", "answer": "good"}]
    assert found["test"][0][1] == {"text": "text 1", "answer": "good"}


def test_rename_may_swap_two_columns(files: dict[str, str]) -> None:
    found = read(**files, rename={"text": "label", "label": "text"})
    assert found["test"][0][1] == {"label": "text 0", "text": "bad"}


def held_out(path: str, **settings: Any) -> dict[str, list[str]]:
    return {name: column(rows, "text") for name, rows in read(train=path, **settings).items()}


def test_held_out_splits_are_the_same_rows_wherever_they_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(400)
    found = held_out(write(tmp_path / "a.jsonl", rows))
    assert sorted(chain(*found.values())) == sorted(r["text"] for r in rows)  # no row is lost or repeated
    assert 25 <= len(found["validation"]) <= 55
    assert 25 <= len(found["test"]) <= 55
    assert f"no test split; held out {len(found['test'])} rows of train" in capsys.readouterr().err
    shuffled = held_out(write(tmp_path / "b.jsonl", rows[::-1]))
    assert {k: sorted(v) for k, v in shuffled.items()} == {k: sorted(v) for k, v in found.items()}


def test_equal_rows_are_never_on_both_sides_of_a_held_out_split(tmp_path: Path) -> None:
    found = held_out(write(tmp_path / "a.jsonl", rows_of(100) * 3))
    assert not set(found["train"]) & (set(found["validation"]) | set(found["test"]))
    assert all(found["test"].count(text) == 3 for text in found["test"])


def test_only_what_is_missing_is_held_out(tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", rows_of(7))
    found = held_out(write(tmp_path / "a.jsonl", rows_of(100)), test=test)
    assert found["test"] == [f"text {i}" for i in range(7)]
    assert len(found["train"]) + len(found["validation"]) == 100


def test_too_few_rows_to_hold_some_out(tmp_path: Path) -> None:
    text = refusal(train=write(tmp_path / "a.jsonl", rows_of(1)))
    assert text.startswith("task.validation: too few rows (1) to hold some out of train")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the Hub by a local table with a ClassLabel; returns the calls."""
    calls: list[Any] = []
    label = datasets.ClassLabel(names=["world", "sports"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})

    def load_dataset(*args: Any, **kwargs: Any) -> datasets.Dataset:
        calls.append((args, kwargs))
        if kwargs["split"] == "valid":
            raise ValueError('Unknown split "valid".\nShould be one of ["train", "test"].')
        return datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(60)], "label": [0, 1] * 30}, features)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return calls


HUB = {"dataset": "someone/news", "subset": "en", "revision": "abc"}


def test_hub_dataset(hub: list[Any]) -> None:
    found = read(**HUB, train="train[:60]", test="test")
    assert hub == [
        (("someone/news", "en"), {"split": "train[:60]", "revision": "abc"}),
        (("someone/news", "en"), {"split": "test", "revision": "abc"}),
    ]
    assert column(found["test"], "label")[:2] == ["world", "sports"]
    assert found["test"][1][0] == "someone/news test row 2"
    assert len(found["train"]) + len(found["validation"]) == 60


@pytest.mark.parametrize(
    ("settings", "call"),
    [
        ({"other_datasets": {"test": "other/news:de"}, "test": "test[:9]"}, ("other/news", "de", "test[:9]")),
        ({"other_datasets": {"test": "other/news"}}, ("other/news", None, "test")),
        ({"other_datasets": {"test": "other/news"}, "dataset": "embedded:sentiment"}, ("other/news", None, "test")),
        ({"other_datasets": {"validation": "other/news"}}, ("other/news", None, "validation")),
        ({"other_datasets": {"train": "other/news:de"}, "train": None}, ("other/news", "de", "train")),
    ],
)
def test_a_split_of_another_dataset(
    hub: list[Any], files: dict[str, str], settings: dict[str, Any], call: tuple[str, str | None, str]
) -> None:
    """Also together with files and an embedded task; the revision is not its own."""
    (split,) = settings["other_datasets"]
    own = {} if "dataset" in settings else {k: v for k, v in files.items() if k != split}
    found = read(**own | {"revision": "abc"} | settings)
    assert hub == [(call[:2], {"split": call[2], "revision": None})]
    assert found[split][0] == (f"other/news {call[2]} row 1", {"text": "t0", "label": "world"})
    assert not any(place.startswith("other") for s, rows in found.items() if s != split for place, _ in rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "task.train: name the split of someone/news to train on, e.g. train"),
        ({"dataset": "", "train": "train"}, "task.dataset: expected the id of a dataset, found an empty text"),
        ({"other_datasets": {"train": ":x"}}, "task.other_datasets: expected the id of a dataset, found an empty text"),
        ({"train": "train", "test": "valid"}, 'task.dataset: cannot load someone/news: Unknown split "valid".'),
        (
            {"train": "train", "test": "valid", "other_datasets": {"test": "other/news:de"}},
            'task.other_datasets: cannot load other/news: Unknown split "valid".',
        ),
    ],
)
def test_hub_mistakes(hub: list[Any], settings: dict[str, Any], message: str) -> None:
    assert refusal(**(HUB | settings)) == message


def test_hub_without_network_is_one_line() -> None:
    assert "cannot load someone/no-such-data: " in refusal(dataset="someone/no-such-data", train="train")
