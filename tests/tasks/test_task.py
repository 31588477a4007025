"""From rows of columns to rows of prompt and target, and their choices."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from made_tasks import Load, refusal, rows_of, write
from softprompts.config.cli import parse
from softprompts.config.sections import RunConfig, TaskConfig
from softprompts.data.sources import DATA_DIR
from softprompts.errors import UserError
from softprompts.tasks.task import load_task, with_prompt

import pytest


def test_rows_are_rendered(load: Load, tmp_path: Path) -> None:
    task = load(prompt="{{{text}}}:", target=" {label!r}")
    row = task.splits["train"][1]
    assert (row.prompt, row.target) == ("{text 1}:", " 'good'")
    assert row.place == f"{tmp_path / 'train.jsonl'}:2"
    assert row.record == {"text": "text 1", "label": "good"}
    assert (task.name, task.choices, task.metrics, task.licence) == ("train", None, ("accuracy",), "that of your data")
    assert {name: len(rows) for name, rows in task.splits.items()} == {"train": 4, "validation": 2, "test": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "{txt}:"}, 'train.jsonl:1: no column "txt"; columns are: text, label'),
        ({"target": "{lable}"}, 'train.jsonl:1: no column "lable"; columns are: text, label'),
        ({"prompt": "{text}: "}, "task.prompt: ends in a space; begin task.target with the space"),
        (
            {"prompt": "{text:>99999999999}"},
            "task.prompt: 99999999999 characters, in '{text:>99999999999}', are more than",
        ),
        ({"target": " {label:0" + "9" * 5000 + "}"}, " ..., are more than 10,000"),
        ({"target": "{label:.20000}"}, "task.target: 20000 characters, in '{label:.20000}', are more than 10,000"),
        ({"prompt": "{text"}, "task.prompt: expected '}' before end of string; write {{ and }} for literal braces"),
        ({"target": "label}"}, "task.target: Single '}' encountered in format string"),
        ({"prompt": "{text.nothing}"}, 'train.jsonl:1: no column "text.nothing"; columns are: text, label'),
        ({"prompt": "{text[en]}"}, '{text[en]}: no key "en" in there; keys are: none, it is not a list or object'),
        ({"prompt": "{text!x}"}, "cannot fill the template '{text!x}'"),
        ({"prompt": "{text:d}"}, "cannot fill the template '{text:d}'"),
        ({"prompt": "{}"}, 'train.jsonl:1: no column ""; columns are: text, label'),
        ({"choices": [" bad", " goood"]}, 'label " good" is outside task.choices (did you mean " goood"?)'),
        ({"choices": {" bad": " no", " goood": " yes"}}, 'label " good" is outside task.choices (did you mean'),
        ({"where": {"label": [], "text": []}}, "task.train: no rows"),
        ({"system": "You are kind."}, "task.system: a system message requires task.chat: true"),
        ({"metrics": ["rouge_l"], "choices": "from_train"}, 'task.metrics: "rouge_l" scores open targets'),
        ({"metrics": ["acuracy"]}, 'task.metrics: no metric "acuracy" (did you mean "accuracy"?)'),
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


def test_c3_choices_from_train_are_those_of_all_rows_that_are_given(tmp_path: Path) -> None:
    """A label that occurs once may be held out; and the first rows of a file may lack one."""
    rows = [*rows_of(100), *({"text": f"rare {i}", "label": f"rare {i}"} for i in range(20))]
    config = TaskConfig("{text}:", " {label}", train=write(tmp_path / "a.jsonl", rows), choices="from_train")
    task = load_task(config)
    every = {f" {row['label']}" for row in rows}
    assert set(task.choices or ()) == every
    assert {row.target for row in task.splits["train"]} < every, "the test needs a label that was held out"
    assert load_task(replace(config, max_rows={"train": 4})).choices == task.choices


@pytest.mark.parametrize(
    ("labels", "choices"),
    [
        (["yes", "no"], "{yes: ' good', no: ' bad'}"),
        (["true", "false"], "{true: ' good', false: ' bad'}"),
        (["007", "008"], "{007: ' good', 008: ' bad'}"),
        (["null", "on"], "{null: ' good', 'on': ' bad'}"),
    ],
)
def test_c4_keys_that_yaml_reads_as_something_else(tmp_path: Path, labels: list[str], choices: str) -> None:
    assert "; YAML reads some keys of task.choices as another type, such as yes as true: quote them" in from_yaml(
        tmp_path, labels, choices
    )
    assert from_yaml(tmp_path, labels, json.dumps({labels[0]: " good", labels[1]: " bad"})) == ""


def test_c4_truth_values_of_the_data_are_keys_as_yaml_has_them(tmp_path: Path) -> None:
    assert from_yaml(tmp_path, [True, False], "{true: ' good', false: ' bad'}") == ""
    assert "quote" not in from_yaml(tmp_path, ["a", "b"], "{c: ' good', d: ' bad'}")


def from_yaml(folder: Path, labels: list[Any], choices: str) -> str:
    """Load a task with these labels and a mapping of choices from YAML; return the error, if there is one."""
    data = write(folder / "rows.jsonl", [{"text": str(i), "label": labels[i % 2]} for i in range(60)])
    path = folder / "c.yaml"
    lines = [f"  train: {data}", "  prompt: '{text}:'", "  target: '{label}'", f"  choices: {choices}"]
    path.write_text("\n".join(["task:", *lines, "run: {output_dir: out}"]), encoding="utf-8")

    def main(task: TaskConfig, run: RunConfig) -> None: ...

    try:
        load_task(parse(main, ["--config", str(path)])["task"])
    except UserError as error:
        return str(error)
    return ""


def test_c6_free_text_is_no_choice(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": f"a summary of row {i} " * 20} for i in range(300)]
    config = TaskConfig("{text}:", " {label}", train=write(tmp_path / "a.jsonl", rows), choices="from_train")
    with pytest.raises(UserError) as caught:
        load_task(config)
    assert str(caught.value) == (
        "task.choices: from_train finds 300 different targets in 300 rows: these are not labels; "
        "remove task.choices for open targets"
    )


def test_c6_a_label_far_from_many_others_is_a_short_line(load: Load) -> None:
    choices = [f"choice {i:04d} {'x' * 300}" for i in range(3_000)]
    text = refusal(load, choices=choices)
    assert text.startswith(f'{text.partition(": label")[0]}: label " bad" is outside task.choices')
    assert len(text) < 3_000
    many = [{f"column {i}": 1 for i in range(500)} | {"label": "x" * 5_000}] * 2
    assert len(refusal(load, many, many)) < 700


def test_a_label_that_stands_twice_once_quoted(load: Load) -> None:
    choices: Any = {True: " yes", "True": " no", "False": " no"}
    assert 'task.choices: "True" appears twice, as a text and as another' in refusal(load, choices=choices)


def test_the_first_line_of_each_embedded_licence_names_it() -> None:
    """Cards and records have this line alone."""
    first = {file.parent.name: file.read_text("utf-8").strip().splitlines()[0] for file in DATA_DIR.glob("*/LICENSE")}
    names = re.compile(r"(The MIT License|Apache License|BSD-3-Clause|CC-BY-4\.0)( \([^()]*\)( and ISC \([^()]*\))?)?")
    assert len(first) >= 8
    assert [name for name, line in first.items() if not names.fullmatch(line)] == []
