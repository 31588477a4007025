"""From rows of columns to rows of prompt and target: templates, choices, schemas."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from softprompts import schemas
from softprompts.config import RunConfig, TaskConfig, parse
from softprompts.errors import UserError
from softprompts.tasks import Task, load_task, render, with_prompt

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
        ({"prompt": "{text.nothing}"}, 'train.jsonl:1: no column "text.nothing"; columns are: text, label'),
        ({"prompt": "{text[en]}"}, '{text[en]}: no key "en" in there; keys are: none, it is no list or object'),
        ({"prompt": "{text!x}"}, "cannot fill the template '{text!x}'"),
        ({"prompt": "{text:d}"}, "cannot fill the template '{text:d}'"),
        ({"prompt": "{}"}, 'train.jsonl:1: no column ""; columns are: text, label'),
        ({"choices": [" bad", " goood"]}, 'label " good" is outside task.choices (did you mean " goood"?)'),
        ({"choices": {" bad": " no", " goood": " yes"}}, 'label " good" is outside task.choices (did you mean'),
        ({"where": {"label": [], "text": []}}, "task.train: no rows"),
        ({"system": "You are kind."}, "task.system: a system message needs task.chat: true"),
        ({"metrics": ["rouge_l"], "choices": "from_train"}, 'task.metrics: "rouge_l" scores written answers'),
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


NESTED = {
    "labels": ["late", "rude"],
    "none": [],
    "translation": {"de": "Straße", "en": "street"},
    "answers": {"text": ["in 1066"], "start": [4]},
    "turns": [{"role": "user", "text": "Hi"}],
    "right": True,
    "stars": 4,
    "share": 0.5,
    "hidden": None,
    "inner": {"x": None},
    "a.b": "dots",
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{labels}|{none}", "late, rude|none"),
        ("{labels[1]}|{translation[de]}|{answers[text][0]}|{turns[0][text]}", "rude|Straße|in 1066|Hi"),
        ("{answers[text]}", "in 1066"),
        ("{translation}|{turns}", '{"de": "Straße", "en": "street"}|{"role": "user", "text": "Hi"}'),
        ("{right}|{stars}|{share}|{share:.2f}|{a.b}", "True|4|0.5|0.50|dots"),
        ("{labels!r}|{labels:>12}|{{labels}}", "'late, rude'|  late, rude|{labels}"),
    ],
)
def test_render_shows_values_as_text(template: str, text: str) -> None:
    assert render(template, NESTED, "here") == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{translation[xx]}", 'here: {translation[xx]}: no key "xx" in there; keys are: de, en'),
        ("{labels[2]}", 'here: {labels[2]}: no key "2" in there; keys are: 0, 1'),
        ("{answers[text][x]}", 'here: {answers[text][x]}: no key "x" in there; keys are: 0'),
        ("{stars[0]}", 'here: {stars[0]}: no key "0" in there; keys are: none, it is no list or object'),
        ("{hidden}", 'here: column "hidden" is null: no value, or a hidden label (-1)'),
        ("{hidden[0]}", 'here: column "hidden[0]" is null: no value, or a hidden label (-1)'),
        ("{inner[x]}", 'here: column "inner[x]" is null: no value, or a hidden label (-1)'),
    ],
)
def test_render_says_what_is_not_there(template: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        render(template, NESTED, "here")
    assert str(caught.value) == message


SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": ["on", "off"]}, "slots": {"$ref": "#/$defs/slots"}},
    "required": ["intent"],
    "$defs": {"slots": {"additionalProperties": {"type": "string"}}},
}


@pytest.fixture
def with_schema(load: Load, tmp_path: Path) -> Load:
    """Return a function that loads a task whose targets are JSON: one of train, the second of test, and the schema."""

    def go(target: str = '{"intent": "on"}', schema: Any = SCHEMA, **settings: Any) -> Task:
        path = tmp_path / "schema.json"
        path.write_text(schema if isinstance(schema, str) else json.dumps(schema), encoding="utf-8")
        good = {"text": "x", "label": '{"intent": "off", "slots": {"area": "hall"}}'}
        validation = write(tmp_path / "json.jsonl", [good])
        settings = {"schema": str(path), "metrics": ["json_object"], "validation": validation} | settings
        return load([good], [good, good | {"label": target}], **settings)

    return go


def test_targets_that_keep_to_the_schema(with_schema: Load, load: Load) -> None:
    task = with_schema()
    assert task.schema == SCHEMA
    assert [r.target for r in task.splits["test"]][1] == ' {"intent": "on"}'
    assert load().schema is None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ('{"intent": "on", "slots": {"area": 5}}', "breaks task.schema at slots.area: 5 is not of type 'string'"),
        ("{}", "breaks task.schema: 'intent' is a required property"),
        (
            "{intent: on}",
            "is no JSON, as task.schema asks: Expecting property name enclosed in double quotes at column 2",
        ),
        ("on", "is no JSON, as task.schema asks: Expecting value at column 1"),
        (json.dumps({"intent": "very " * 99}), "breaks task.schema at intent: 'very very"),
    ],
)
def test_a_target_that_breaks_the_schema(with_schema: Load, target: str, message: str) -> None:
    text = refusal(with_schema, target)
    assert f"test.jsonl:2: the target {message}" in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schema": "{"}, "schema.json: malformed JSON: Expecting property name"),
        ({"schema": {"type": "objct"}}, "schema.json is no JSON Schema at type: 'objct' is not valid under any of"),
        ({"schema": {"pattern": "("}}, "schema.json is no JSON Schema at pattern: '(' is not a 'regex'"),
        ({"schema": True}, "schema.json: expected a JSON object, found bool"),
        ({"schema": {"$ref": "https://x.org/y.json"}}, "refers to what it does not hold: https://x.org/y.json"),
        ({"schema": {"properties": {"never": {"items": {"$ref": "#/$defs/x"}}}}}, "does not hold: #/$defs/x"),
        ({"choices": "from_train", "metrics": ["accuracy"]}, "task.schema: is for written answers; take it out, or"),
    ],
)
def test_a_schema_that_is_none(with_schema: Load, settings: dict[str, Any], message: str) -> None:
    assert message in refusal(with_schema, **settings)


def test_a_schema_that_is_not_there(load: Load, with_schema: Load, tmp_path: Path) -> None:
    with_schema()
    assert f'no such file: {tmp_path}/shema.json (did you mean "{tmp_path}/schema.json"?)' in refusal(
        load, schema=f"{tmp_path}/shema.json"
    )
    assert "task.schema: no such file: embedded:no/such.json" in refusal(load, schema="embedded:no/such.json")


def test_a_schema_of_an_embedded_task(with_schema: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "DATA_DIR", tmp_path.parent)
    embedded = replace(with_schema().config, schema=f"embedded:{tmp_path.name}/schema.json")
    assert load_task(embedded).schema == SCHEMA


def test_render_keeps_braces_and_percent_signs_of_the_data() -> None:
    assert render("{text}", {"text": "{not a field} 100%"}, "here") == "{not a field} 100%"


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
