"""From files, embedded tasks and Hub datasets to rows of prompt and target."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from softprompts import tasks
from softprompts.config import RunConfig, TaskConfig, parse
from softprompts.errors import UserError
from softprompts.tasks import Task, load_task, render, with_prompt

import datasets
import pytest

Load = Callable[..., Task]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def rows_of(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": ["bad", "good"][i % 2]} | more for i in range(count)]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that loads a task from the rows of train, validation and test."""

    def go(train: Any = None, test: Any = None, **settings: Any) -> Task:
        files = {
            "train": write(tmp_path / "train.jsonl", train or rows_of(4)),
            "validation": write(tmp_path / "validation.jsonl", rows_of(2)),
            "test": write(tmp_path / "test.jsonl", test or rows_of(2)),
        }
        return load_task(TaskConfig(**({"prompt": "{text}\n:", "target": " {label}"} | files | settings)))

    return go


def refusal(load: Load, *args: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_are_rendered(load: Load, tmp_path: Path) -> None:
    task = load(prompt="{{{label}}} {text}:", target=" {label!r}")
    row = task.splits["train"][1]
    assert (row.prompt, row.target) == ("{good} text 1:", " 'good'")
    assert row.place == f"{tmp_path / 'train.jsonl'}:2"
    assert row.record == {"text": "text 1", "label": "good"}
    assert (task.name, task.choices, task.metrics, task.licence) == ("train", None, ("accuracy",), "that of your data")
    assert {name: len(rows) for name, rows in task.splits.items()} == {"train": 4, "validation": 2, "test": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "{txt}:"}, 'train.jsonl:1: no column "txt"; columns are: text, label'),
        ({"target": "{lable}"}, 'train.jsonl:1: no column "lable"; columns are: text, label'),
        ({"prompt": "{text}: "}, "task.prompt: ends in a space; let task.target begin with it"),
        ({"prompt": "{text"}, "task.prompt: expected '}' before end of string; write {{ and }} for literal braces"),
        ({"target": "label}"}, "task.target: Single '}' encountered in format string"),
        ({"prompt": "{text.nothing}"}, "cannot fill the template '{text.nothing}'"),
        ({"prompt": "{text:d}"}, "cannot fill the template '{text:d}'"),
        ({"prompt": "{}"}, "train.jsonl:1: "),
        ({"choices": [" bad", " goood"]}, 'label " good" is outside task.choices (did you mean " goood"?)'),
        ({"choices": {" bad": " no", " goood": " yes"}}, 'label " good" is outside task.choices (did you mean'),
        ({"where": {"domain": ["x"]}}, 'task.where: no column "domain"; columns are: text, label'),
        ({"where": {"label": ["goood"]}}, 'task.where: no train row has label "goood" (did you mean "good"?)'),
        ({"max_rows": {"tset": 1}}, 'task.max_rows: unknown split "tset" (did you mean "test"?)'),
        ({"where": {"label": [], "text": []}}, "task.train: no rows"),
        ({"max_rows": {"test": 0}}, "task.max_rows: test: expected a number above 0, found 0"),
        ({"max_rows": {"test": -1}}, "task.max_rows: test: expected a number above 0, found -1"),
        ({"validation": "nowhere.jsonl"}, "no such file: nowhere.jsonl"),
        ({"dataset": "embedded:sentimnt"}, '(did you mean "embedded:sentiment"?)'),
    ],
)
def test_mistakes_are_one_line(load: Load, settings: dict[str, Any], message: str) -> None:
    assert message in refusal(load, **settings)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x", "label": ""}, "test.jsonl:2: the target is empty"),
        ({"text": "x", "label": "  "}, "test.jsonl:2: the target is empty"),
        ({"text": "x", "label": None}, 'test.jsonl:2: column "label" is null'),
        ({"text": "x"}, 'test.jsonl:2: no column "label"; columns are: text'),
    ],
)
def test_a_row_without_target(load: Load, row: dict[str, Any], message: str) -> None:
    assert message in refusal(load, test=[*rows_of(1), row])


def test_choices_from_train(load: Load) -> None:
    assert load(choices="from_train").choices == (" bad", " good")
    unseen = [{"text": "x", "label": "ugly"}]
    assert 'label " ugly" is outside task.choices' in refusal(load, test=unseen, choices="from_train")


@pytest.mark.parametrize("keys", [("0", "1"), (0, 1)])
def test_verbalizer_gives_the_words_for_a_rendered_target(load: Load, tmp_path: Path, keys: tuple[Any, Any]) -> None:
    numbers = [{"text": "x", "label": i % 2} for i in range(4)]
    validation = write(tmp_path / "numbers.jsonl", numbers)
    choices = {keys[0]: " bad", keys[1]: " good"}
    task = load(numbers, numbers, validation=validation, target="{label}", choices=choices)
    assert task.choices == (" bad", " good")
    assert [r.target for r in task.splits["train"]] == [" bad", " good", " bad", " good"]


def test_where_and_max_rows(load: Load) -> None:
    train = [*rows_of(3, year=2020), *rows_of(3, year=2021)]
    task = load(
        train=train,
        test=rows_of(3, year=2021),
        validation=load(train=train).config.train,
        where={"year": ["2021"]},
        max_rows={"train": 2},
    )
    assert [r.record["year"] for r in task.splits["train"]] == [2021, 2021]
    assert [r.prompt for r in task.splits["train"]] == ["text 0\n:", "text 1\n:"]
    assert (len(task.splits["validation"]), len(task.splits["test"])) == (3, 3)


def held_out(path: str, **settings: Any) -> dict[str, list[str]]:
    task = load_task(TaskConfig(prompt="{text}", target=" {label}", train=path, **settings))
    return {name: [r.record["text"] for r in rows] for name, rows in task.splits.items()}


def test_held_out_splits_are_the_same_rows_wherever_they_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(400)
    splits = held_out(write(tmp_path / "a.jsonl", rows))
    assert sorted(chain(*splits.values())) == sorted(r["text"] for r in rows)  # nothing lost, nothing twice
    assert 25 <= len(splits["validation"]) <= 55
    assert 25 <= len(splits["test"]) <= 55
    assert f"no test given; held out {len(splits['test'])} rows of train" in capsys.readouterr().err
    shuffled = held_out(write(tmp_path / "b.jsonl", rows[::-1]))
    assert {k: sorted(v) for k, v in shuffled.items()} == {k: sorted(v) for k, v in splits.items()}


def test_equal_rows_are_never_on_both_sides_of_a_held_out_split(tmp_path: Path) -> None:
    splits = held_out(write(tmp_path / "a.jsonl", rows_of(100) * 3))
    assert not set(splits["train"]) & (set(splits["validation"]) | set(splits["test"]))
    assert all(splits["test"].count(text) == 3 for text in splits["test"])


def test_only_what_is_missing_is_held_out(tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", rows_of(7))
    splits = held_out(write(tmp_path / "a.jsonl", rows_of(100)), test=test)
    assert splits["test"] == [f"text {i}" for i in range(7)]
    assert len(splits["train"]) + len(splits["validation"]) == 100


def test_without_data() -> None:
    with pytest.raises(UserError, match="task: give dataset, or a file as train"):
        load_task(TaskConfig(prompt="{text}", target=" {label}"))


def test_too_few_rows_to_hold_some_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.validation: too few rows \(1\) to hold some out of train"):
        held_out(write(tmp_path / "a.jsonl", rows_of(1)))


def test_embedded_sentiment() -> None:
    config = TaskConfig(
        prompt="{text}", target=" {label}", dataset="embedded:sentiment", choices=[" positive", " negative"]
    )
    task = load_task(config)
    assert (task.name, task.licence) == ("sentiment", "The MIT License (MIT)")
    assert {s: f["rows"] for s, f in task.fingerprint().items()} == {"train": 16078, "validation": 825, "test": 2200}
    movies = load_task(TaskConfig(**(vars(config) | {"where": {"domain": ["movies"]}, "max_rows": {"train": 5}})))
    assert {r.record["domain"] for r in movies.splits["test"]} == {"movies"}
    assert len(movies.splits["train"]) == 5


def test_fingerprint_changes_with_any_prompt_or_target(load: Load) -> None:
    first = load().fingerprint()
    assert first["train"]["rows"] == 4
    assert load().fingerprint() == first
    assert load(target="{label}").fingerprint()["train"] != first["train"]
    changed = load(test=[*rows_of(1), {"text": "text 1", "label": "bad"}]).fingerprint()
    assert (changed["train"], changed["test"] != first["test"]) == (first["train"], True)


def test_with_prompt_renders_the_same_rows_anew(load: Load) -> None:
    task = load()
    other = with_prompt(task, "Review: {text}")
    assert [r.prompt for r in other.splits["test"]] == ["Review: text 0", "Review: text 1"]
    assert [r.target for r in other.splits["test"]] == [r.target for r in task.splits["test"]]
    assert (task.splits["test"][0].prompt, other.config.prompt) == ("text 0\n:", "Review: {text}")


def test_render_keeps_braces_and_percent_signs_of_the_data() -> None:
    assert render("{text}", {"text": "{not a field} 100%"}, "here") == "{not a field} 100%"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand a local table with a ClassLabel in for the Hub; returns the calls."""
    calls: list[Any] = []
    label = datasets.ClassLabel(names=["world", "sports"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})

    def load_dataset(*args: Any, **kwargs: Any) -> datasets.Dataset:
        calls.append((args, kwargs))
        if kwargs["split"] == "valid":
            raise ValueError('Unknown split "valid".\nShould be one of ["train", "test"].')
        return datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(60)], "label": [0, 1] * 30}, features)

    monkeypatch.setattr(tasks.datasets, "load_dataset", load_dataset)
    return calls


HUB = {"dataset": "someone/news", "subset": "en", "revision": "abc", "prompt": "{text}", "target": " {label}"}


def test_hub_dataset(hub: list[Any]) -> None:
    task = load_task(TaskConfig(**HUB, train="train[:60]", test="test", choices=[" world", " sports"]))
    assert hub == [
        (("someone/news", "en"), {"split": "train[:60]", "revision": "abc"}),
        (("someone/news", "en"), {"split": "test", "revision": "abc"}),
    ]
    assert [r.target for r in task.splits["test"][:2]] == [" world", " sports"]
    assert task.splits["test"][1].place == "someone/news test row 2"
    assert len(task.splits["train"]) + len(task.splits["validation"]) == 60
    assert (task.name, task.licence) == ("someone/news", "that of your data")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({}, "task.train: name the split of someone/news to train on, e.g. train"),
        ({"train": "train", "test": "valid"}, 'task.dataset: cannot load someone/news: Unknown split "valid".'),
    ],
)
def test_hub_mistakes(hub: list[Any], splits: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(TaskConfig(**HUB, **splits))
    assert str(caught.value) == message


def test_hub_without_network_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot load someone/no-such-data: ") as caught:
        load_task(TaskConfig(prompt="{text}", target=" {label}", dataset="someone/no-such-data", train="train"))
    assert "\n" not in str(caught.value)


def test_own_file_in_four_lines_of_yaml(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(f"t{i},{i % 2}\n" for i in range(100)), encoding="utf-8")
    path = tmp_path / "c.yaml"
    path.write_text(
        f"""
task:
  train: {tmp_path / "own.csv"}
  prompt: "{{text}}\\nSentiment:"
  target: "{{label}}"
  choices: {{0: " negative", 1: " positive"}}
run: {{output_dir: out}}
""",
        encoding="utf-8",
    )

    def main(task: TaskConfig, run: RunConfig) -> None: ...

    task = load_task(parse(main, ["--config", str(path)])["task"])
    assert task.choices == (" negative", " positive")
    assert task.splits["train"][0].prompt == "t0\nSentiment:"
    assert sum(map(len, task.splits.values())) == 100
