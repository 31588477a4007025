"""JSON Schemas, and targets that keep to them or do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import ROOT
from made_tasks import CUSTOM, Load, refusal, write
from softprompts.config.sections import TaskConfig
from softprompts.tasks import schemas
from softprompts.tasks.schemas import names_in, read_schema
from softprompts.tasks.task import Task, load_task

import pytest
import yaml

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
        ('{"intent": "on", "slots": {"area": 5}}', "violates task.schema at slots.area: 5 is not of type 'string'"),
        ("{}", "violates task.schema: 'intent' is a required property"),
        (
            "{intent: on}",
            "is not JSON, as required by task.schema: Expecting property name enclosed in double quotes at column 2",
        ),
        ("on", "is not JSON, as required by task.schema: Expecting value at column 1"),
        (json.dumps({"intent": "very " * 99}), "violates task.schema at intent: 'very very"),
        (json.dumps({"intent": "字" * 300}), "violates task.schema at intent: '字字"),
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
        ({"schema": {"type": "objct"}}, "schema.json is not a JSON Schema at type: 'objct' is not valid under any of"),
        ({"schema": {"pattern": "("}}, "schema.json is not a JSON Schema at pattern: '(' is not a 'regex'"),
        ({"schema": True}, "schema.json: expected a JSON object, found bool"),
        (
            {"schema": {"$ref": "https://x.org/y.json"}},
            "refers to a part that it does not contain: https://x.org/y.json",
        ),
        ({"schema": {"properties": {"never": {"items": {"$ref": "#/$defs/x"}}}}}, "does not contain: #/$defs/x"),
        (
            {"choices": "from_train", "metrics": ["accuracy"]},
            "task.schema: applies only to tasks without choices; remove it, or",
        ),
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


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (b'{"type": "object", "type": "string"}', 'malformed JSON: key "type" appears twice in one object'),
        (b'{"maximum": NaN}', "malformed JSON: NaN is not a JSON value at column 13"),
        (b'{"title": "caf\xe9"}', "schema.json:1: not UTF-8 (byte 0xe9)"),
        (b"[" * 3_000, "malformed JSON: nested too deeply"),
        (b'{"allOf": [' * 90 + b"{}" + b"]}" * 90, "schema.json is not a JSON Schema: maximum recursion depth"),
        (b'{"$ref": "http://["}', "schema.json refers to a part that it does not contain: http://["),
        (b'{"$dynamicRef": "#x"}', "schema.json refers to a part that it does not contain: #x"),
        (
            b'{"items": {"$dynamicRef": "https://x.org/y"}}',
            "schema.json refers to a part that it does not contain: https://x.org",
        ),
        (b'{"$ref": "#"}', "cannot be checked against task.schema: maximum recursion depth"),
    ],
)
def test_damaged_schemas_are_one_line(load: Load, tmp_path: Path, schema: bytes, message: str) -> None:
    (tmp_path / "schema.json").write_bytes(schema)
    assert message in refusal(load, target='{{"a": "{label}"}}', schema=str(tmp_path / "schema.json"))


def test_a_target_with_what_json_does_not_have(with_schema: Load) -> None:
    assert "is not JSON, as required by task.schema: NaN is not a JSON value" in refusal(with_schema, '{"intent": NaN}')
    assert 'is not JSON, as required by task.schema: key "intent" appears twice' in refusal(
        with_schema, '{"intent": "on", "intent": "off"}'
    )


def test_names_in_a_schema_are_those_of_properties_and_values_once_each() -> None:
    schema = {
        "title": "not this",
        "properties": {
            "enum": {"type": "string", "default": "nor this", "examples": ["nor that"]},
            "state": {"enum": ["on", 1, None, "enum", True]},
            "more": {"items": {"$ref": "#/$defs/part"}},
        },
        "patternProperties": {"^x": {"const": "x"}},
        "allOf": [{"if": {"properties": {"state": {"const": "on"}}}, "then": {"required": ["state"]}}, True],
        "$defs": {"part": {"properties": {"area": {"const": "hall"}}, "dependentRequired": {"area": ["b"]}}},
    }
    assert names_in(schema) == ["enum", "state", "more", "on", "x", "area", "hall"]
    assert names_in({}) == []


def test_the_names_of_the_embedded_home_commands() -> None:
    names = names_in(read_schema("embedded:home_commands/schema.json"))
    assert names[:3] == ["intent", "slots", "HassBroadcast"]
    assert names.index("HassVacuumStart") < names.index("message") < names.index("purple"), "slots, then their values"
    assert len(names) == len(set(names)) < 150


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "task.metric_data: no such file: "),
        ("{", "malformed JSON: "),
        ("[]", "expected a JSON object, found list"),
        ('{"good": {"mentions": "x"}}', '"mentions" fails on the targets: task.metric_data: "good": expected'),
    ],
)
def test_metric_data_that_cannot_be_read(load: Load, tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "data.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    assert message in refusal(load, metrics=["mentions"], metric_data=str(file))


def test_metric_data_reach_the_task(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text('{"good": {"mentions": [["good"]]}}', encoding="utf-8")
    assert load(metrics=["mentions"], metric_data=str(file)).metric_data == {"good": {"mentions": [["good"]]}}
    assert load().metric_data is None
    assert "none of task.metrics reads it" in refusal(load, metrics=["rouge_l"], metric_data=str(file))


def entries(folder: Path, *names: str) -> str:
    """Write metric data with an entry for each name, and return the path."""
    file = folder / "data.json"
    file.write_text(json.dumps({name: {"mentions": [[name.strip()]]} for name in names}), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("names", [("good", "bad"), ("of another file",), ()])
def test_metric_data_of_no_target_are_refused(load: Load, tmp_path: Path, names: tuple[str, ...]) -> None:
    """Every answer would mention all that is required, which is nothing."""
    settings: dict[str, Any] = {"target": " Answer: {label}", "metric_data": entries(tmp_path, *names)}
    message = refusal(load, metrics=["chrf", "mentions"], **settings)
    assert message == (
        "task.metric_data: no target of validation and test has an entry; name each entry as task.target shows the "
        f'target, after task.pii, e.g. "Answer: bad" for {tmp_path / "validation.jsonl"}:1'
    )


def test_with_few_rows_metric_data_of_no_target_are_a_warning(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows with entries may be others."""
    load(metrics=["mentions"], metric_data=entries(tmp_path, "else"), max_rows={"test": 1})
    assert "no target of validation and test has an entry" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        (("good",), None),  # nothing is required of the other rows
        (("good", "in train"), None),
        (
            ("good", "else"),
            "1 of its 2 entries have a name that is no target, e.g. entry 2; 1 targets have none, e.g. ",
        ),
        (("good", "bad", "else"), "1 of its 3 entries have a name that is no target, e.g. entry 3\n"),
        (
            ("good", "Bad\r\n"),
            "2 of 4 targets of validation and test have no entry, because its name has other spaces, ",
        ),
    ],
)
def test_metric_data_of_some_targets(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], warning: str | None
) -> None:
    train = [{"text": "x", "label": label} for label in ("good", "bad", "in train")]
    load(train, metrics=["mentions"], metric_data=entries(tmp_path, *names))
    said = capsys.readouterr().err
    assert warning in said if warning else "metric_data" not in said


def test_another_form_of_unicode_in_metric_data_is_a_warning(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "x", "label": "caf\u00e9"}, {"text": "y", "label": "bar"}]
    load(rows, rows, metrics=["chrf"], metric_data=entries(tmp_path, "bar", "cafe\u0301"))
    assert "1 of 4 targets of validation and test have no entry" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["analytics", "localisation"])
def test_the_metric_data_of_embedded_tasks_have_their_targets(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load((ROOT / "configs" / task / "prompt_tuning.yaml").read_text(encoding="utf-8"))["task"]
    load_task(TaskConfig(**settings | {"metrics": ["mentions"]}))
    assert "metric_data" not in capsys.readouterr().err


def test_the_metric_data_of_a_module_of_the_user_have_any_form(load: Load, tmp_path: Path) -> None:
    module = tmp_path / "length.py"
    module.write_text(CUSTOM.replace("NUMBER", "length").replace("schema", "data"), encoding="utf-8")
    (tmp_path / "data.json").write_text('{"extra": 2}', encoding="utf-8")
    load(metrics=[str(module)], metric_data=str(tmp_path / "data.json"))
