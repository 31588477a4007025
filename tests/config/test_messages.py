"""Messages about keys and values, without a parser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from helpers import ROOT
from softprompts.config.messages import check_values, describe, explain, wrong_value
from softprompts.config.yaml_files import check_yaml, flatten, is_read, nearest_key
from softprompts.errors import UserError

import pytest

VALID = {"run", "run.seed", "run.output_dir", "task", "task.where", "training", "training.steps", "training.batch_size"}


@dataclass
class Settings:
    count: int = 1
    start: Literal["TEXT", "RANDOM"] = "RANDOM"
    name: str | None = "a"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "whole number"),
        (float | None, "number | null"),
        (bool, "true | false"),
        (Literal["a", "b"], "a | b"),
        (
            list[str] | dict[str, str] | Literal["from_train"] | None,
            "[text, ...] | {text: text, ...} | from_train | null",
        ),
        (dict[str, list[str]], "{text: [text, ...], ...}"),
        (Literal["TEXT", "RANDOM"], "TEXT | RANDOM"),
        (Path, "Path"),
    ],
)
def test_describe(hint: Any, words: str) -> None:
    assert describe(hint) == words


@pytest.mark.parametrize(
    ("hint", "found", "message"),
    [
        (Literal["adamw", "adafactor"], "adamv", 'k: expected adamw | adafactor, found adamv (did you mean "adamw"?)'),
        (Literal["adamw", "adafactor"], "zzz", "k: expected adamw | adafactor, found zzz"),
        (int, "abc", "k: expected whole number, found abc"),
        (str | None, "tex", "k: expected text | null, found tex"),
        (list[str], "[True]", "k: expected [text, ...], found [True]; quote texts that YAML reads as another type"),
        (
            str,
            "{'text': None}",
            "k: expected text, found {'text': None}; quote a template: \"{text}\"",
        ),
    ],
)
def test_wrong_value(hint: Any, found: str, message: str) -> None:
    assert wrong_value("k", hint, found) == message


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("training.stepz", ' (did you mean "training.steps"?)'),
        ("training.zzz", " (valid: batch_size, steps)"),
        ("steps", ' (did you mean "training.steps"?)'),
        ("model.seed", ' (did you mean "run.seed"?)'),
        ("trainig", ' (did you mean "training"?)'),
        ("zzz", " (valid: run, task, training)"),
        ("prompt.inference_mode", ": the library sets this PEFT field from the base model"),
    ],
)
def test_nearest_key(key: str, hint: str) -> None:
    assert nearest_key(key, VALID) == hint


@pytest.mark.parametrize(
    ("key", "expected"),
    [("task.where", True), ("task.where.domain", True), ("task.who", False), ("task.who.domain", False), ("x", False)],
)
def test_is_read(key: str, expected: bool) -> None:
    assert is_read(key, VALID) is expected


def test_flatten_yields_inner_keys_before_leaves() -> None:
    assert list(flatten({"a": {"b": {"c": 1}}, "d": [1]})) == ["a", "a.b", "a.b.c", "d"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# a comment\n", "is empty"),
        ("- a\n- b\n", "is not a mapping of keys to values"),
        ("plain\n", "is not a mapping of keys to values"),
        ("run: {seed: 1}\ntraining: [\n", ":3: not valid YAML: "),
        ("run:\n\tseed: 1\n", ":2: not valid YAML: "),
        ("run: {seed: {{x}}}\n", ":1: not valid YAML: found unhashable key"),
        ("run:\n  seed: \x01\n", ":2: not valid YAML: special characters are not allowed: '\\x01'"),
        ("task:\n  prompt: {text} is\n", "; quote texts that begin with {"),
        (
            "task:\n  prompt: @text\n",
            ":2: not valid YAML: found character '@' that cannot start any token; quote texts",
        ),
        (
            "task:\n  prompt: Text: {text}\n",
            ":2: not valid YAML: mapping values are not allowed here; quote texts that",
        ),
        ("run: {seed: 1}\nrun: {seed: 2}\n", ':2: not valid YAML: key "run" appears twice'),
        (
            "task:\n  where: {yes: a, true: b}\n",
            ':2: not valid YAML: key "true" appears twice, first as "yes"; quote both',
        ),
        ("task:\n  where: {1: a, 1.0: b}\n", ':2: not valid YAML: key "1.0" appears twice, first as "1"; quote both'),
        ("run:\n  seed: 1\n  seed: 2\n", ':3: not valid YAML: key "seed" appears twice'),
        ("run:\n", "run: expected keys below it, found nothing"),
        ("run: 5\n", "run: expected keys below it, found 5"),
        ("run: {sed: 1}\n", 'unknown key "run.sed" (did you mean "run.seed"?)'),
        ("task: {where: {a: [b]}, wear: {a: [b]}}\n", 'unknown key "task.wear" (did you mean "task.where"?)'),
        ("run: " + 2000 * "[" + 2000 * "]", "is nested too deeply"),
        ("5: 5\n", 'unknown key "5" (valid: run, task, training)'),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        check_yaml(str(path), VALID)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_good_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("run: {seed: 1}\ntask: {where: {any: [thing]}}\ntraining.steps: 3\n", encoding="utf-8")
    check_yaml(str(path), VALID)


def test_missing_file_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, name in (("sentiment", "prompt_tuning"), ("accelerate", "prompt_tunin")):
        (tmp_path / "configs" / folder).mkdir(parents=True)
        (tmp_path / "configs" / folder / f"{name}.yaml").touch()
    with pytest.raises(UserError, match=r"\(nearest: configs/sentiment/prompt_tuning\.yaml; all are"):
        check_yaml("configs/sentimnt/prompt_tunin.yaml", VALID)


def test_explain_leaves_other_messages_but_puts_them_into_one_line() -> None:
    assert explain("required:\n  task.prompt", {}) == "required: task.prompt"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(count=None), "s.count: expected whole number, found null"),  # type: ignore[arg-type]
        (Settings(start=None), "s.start: expected TEXT | RANDOM, found null"),  # type: ignore[arg-type]
    ],
)
def test_values_that_jsonargparse_lets_pass(settings: Settings, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_values("s", settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("settings", [Settings(), Settings(name=None), Settings(start="TEXT")])
def test_values_that_fit(settings: Settings) -> None:
    check_values("s", settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: &a [*a]", "contains a value that refers to itself"),
        ("task: &a {b: *a}", "contains a value that refers to itself"),
        ("task: !!float x", "a tag does not fit its value"),
        ("task: !!bool maybe", "a tag does not fit its value"),
        ("task: !!timestamp x", "a tag does not fit its value"),
        ("task: {2020-01-01: x}", "contains a key that is not a text; quote it"),
    ],
)
def test_yaml_that_no_settings_can_be_made_of_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        check_yaml(str(file), {"task"})


def test_a_long_value_of_the_wrong_type_is_cut() -> None:
    assert len(wrong_value("task.max_length", int, "x" * 5_000)) < 200


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_file_in_latin_1_names_the_line(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(start + "task:\n  prompt: Käse\n".encode("latin-1"))
    with pytest.raises(UserError) as caught:
        check_yaml(str(path), VALID)
    assert str(caught.value) == f"{path}:2: not UTF-8 (byte 0xe4); save it as UTF-8"


def test_a_config_that_is_missing_has_its_three_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
        check_yaml("configs/sentiment/promt_tuning.yaml", VALID)
    said = str(caught.value)
    assert said.startswith(
        "no such config file: configs/sentiment/promt_tuning.yaml (nearest: configs/sentiment/prompt_"
    )
    assert said.count(".yaml") == 4
    assert said.endswith(f"; all are below {ROOT / 'configs'})")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^no such config file: mine\.yaml$"):
        check_yaml("mine.yaml", VALID)
