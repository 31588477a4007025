"""What a template makes of a record, and which values it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from made_tasks import Load, loader, refusal
from softprompts.config.methods import HardPromptConfig
from softprompts.config.sections import TaskConfig
from softprompts.errors import UserError
from softprompts.evaluation.hard_prompts import written_tasks
from softprompts.tasks.task import load_task
from softprompts.tasks.templates import check_task_templates, render

import pytest

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
        ("{stars[0]}", 'here: {stars[0]}: no key "0" in there; keys are: none, it is not a list or object'),
        ("{hidden}", 'here: column "hidden" is null: a missing value, or a hidden label (-1)'),
        ("{hidden[0]}", 'here: column "hidden[0]" is null: a missing value, or a hidden label (-1)'),
        ("{inner[x]}", 'here: column "inner[x]" is null: a missing value, or a hidden label (-1)'),
    ],
)
def test_render_says_what_is_not_there(template: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        render(template, NESTED, "here")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("prompt", "target", "message"),
    [
        ("Sentiment:", " {label}", "task.prompt: names no column, so every row would have the same input; write"),
        (
            "{text} {label}:",
            " {label}",
            "task.prompt: shows {label}, all that task.target contains, so the input",
        ),
        ("{label!r}:", " {label}", "task.prompt: shows {label}, all"),
        ("{answer}:", " {answer[en]}", "task.prompt: shows {answer[en]}, all"),
        ("{text}{label}:", ' {{"{label}": "{text}"}}', "task.prompt: shows {label}, {text}, all"),
    ],
)
def test_templates_that_make_no_task_are_refused(prompt: str, target: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_task_templates(prompt, target)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("{text}:", ' {{"{label}": "{text}"}}'),  # quotes the input in addition to the answer
        ("{text:.50}", "{text}"),  # continues with a text
        ("{translation[de]}", "{translation[en]}"),
        ("{label}:", " {labels}"),
        ("{text}:", " yes"),
    ],
)
def test_templates_whose_answer_is_not_in_the_prompt_are_taken(prompt: str, target: str) -> None:
    check_task_templates(prompt, target)


def test_a_wording_that_makes_no_task_is_named_as_such(tmp_path: Path) -> None:
    task = loader(tmp_path)()
    with pytest.raises(UserError) as caught:
        written_tasks(task, HardPromptConfig(wordings=["{text}:", "{text} {label}:"]), 0)
    assert str(caught.value).startswith("hard.wordings: shows {label}, all that task.target contains")


def test_render_keeps_braces_and_percent_signs_of_the_data() -> None:
    assert render("{text}", {"text": "{not a field} 100%"}, "here") == "{not a field} 100%"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("1e999", "is inf, which is not a value"),
        ('["a", null]', "has an item that is null"),
        ('{"k": -1e999}', "has a value that is -inf"),
    ],
)
def test_a14_a_value_that_is_none_is_an_error_only_if_the_template_uses_it(
    tmp_path: Path, value: str, why: str
) -> None:
    path = tmp_path / "scores.jsonl"
    lines = [f'{{"text": "text {i}", "label": "bad", "score": {s}}}' for i, s in enumerate(["0.5", value])]
    path.write_text("\n".join(lines), encoding="utf-8")
    config = TaskConfig("{text}:", " {label}", **dict.fromkeys(("train", "validation", "test"), str(path)))
    assert len(load_task(config).splits["train"]) == 2
    with pytest.raises(UserError) as caught:
        load_task(replace(config, prompt="{text} {score}:"))
    assert str(caught.value).startswith(f'{path}:2: column "score" {why}')


def test_b7_half_a_character_that_no_file_checks(load: Load) -> None:
    for settings, key in (
        ({"prompt": "{text}\ud83d:"}, "train.jsonl:1"),
        ({"choices": [" bad", " good", "\udce9"]}, "task.choices"),
        ({"chat": True, "system": "\ud83d"}, "task.system"),
    ):
        assert f"{key}: holds \\ud" in refusal(load, **settings)
