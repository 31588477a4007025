"""Invalid settings of a method: exit code 2, and one line with the error and valid settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import cli_in_process, recipe_command, tiny_flags

import pytest

pytestmark = pytest.mark.slow

Fail = Callable[..., str]


@pytest.fixture
def fail(tiny_model: Path, domain_task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Fail:
    """Run a recipe with more flags, see it fail as it should, and return its line without `error: `."""

    def run(recipe: str, **changes: Any) -> str:
        length = {"training.steps": 1, "training.warmup_steps": 0}
        flags = tiny_flags(tiny_model, domain_task, tmp_path / "run") | length | changes
        code, _, errors = cli_in_process(recipe_command(recipe, "sentiment", flags), capfd)
        assert (code, len(errors)) == (2, 1), errors
        assert errors[0].startswith("error: ")
        assert not (tmp_path / "run/adapter").exists()
        return errors[0].removeprefix("error: ")

    return run


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """See to it that a recipe which loads a model fails in another way than it should."""

    def refuse(*_: Any) -> None:
        raise AssertionError("loaded before the settings were checked")

    monkeypatch.setattr("softprompts.load_base_model", refuse)


ENCODER_TAKES = "it supports prefix_tuning, lora, ia3, full_finetuning"
T5_TAKES = "it supports hard_prompt, prompt_tuning, p_tuning, lora, ia3, full_finetuning"


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("recipe", "model", "reason"),
    [
        ("prompt_tuning", "tiny_encoder", f"take the place of its first token; {ENCODER_TAKES}"),
        ("p_tuning", "tiny_encoder", f"take the place of its first token; {ENCODER_TAKES}"),
        ("multitask_prompt_tuning", "tiny_encoder", f"PEFT supports only decoders; {ENCODER_TAKES}"),
        ("prefix_tuning", "tiny_t5", f"PEFT ignores a prefix when an encoder-decoder generates; {T5_TAKES}"),
        ("multitask_prompt_tuning", "tiny_t5", f"PEFT's support works only for decoders; {T5_TAKES}"),
    ],
)
def test_a_method_that_the_architecture_lacks(
    fail: Fail, recipe: str, model: str, reason: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    kind = {"tiny_encoder": "bert", "tiny_t5": "t5"}[model]
    message = fail(recipe, **{"model.name_or_path": folder})
    assert message.startswith(f"model.name_or_path: {folder} ({kind}) does not support {recipe}: ")
    assert message.endswith(reason)


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        ("prefix_tuning", {"model.gradient_checkpointing": "true"}, "model.gradient_checkpointing: cannot be combined"),
        (
            "full_finetuning",
            {"model.quantization": "nf4"},
            "model.quantization: full fine-tuning requires unquantised weights",
        ),
        ("lora", {"lora.target_modules": "[q_prj]"}, "lora: Target modules {'q_prj'} not found in the base model"),
        ("lora", {"lora.r": 0}, "lora: `r` should be a positive integer value but the value passed is 0"),
    ],
)
def test_settings_are_refused_before_anything_is_loaded(
    fail: Fail, recipe: str, flags: dict[str, Any], message: str
) -> None:
    assert fail(recipe, **flags).startswith(message)


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        (
            "prefix_tuning",
            {"prefix.prefix_projection": "true", "prefix.encoder_hidden_size": 16},
            "prefix.init_text: cannot be combined with prefix_projection, for the network cannot reproduce",
        ),
        ("prefix_tuning", {"prefix.init_weights": "zero"}, "prefix.init_text: cannot be combined with init_weights"),
        ("prefix_tuning", {"prefix.init_text": ""}, "prefix.init_text: the text is empty; set it to null for no text"),
        ("prefix_tuning", {"prefix.num_virtual_tokens": 0}, "prefix.num_virtual_tokens: expected a number above 0"),
        ("p_tuning", {"prompt.encoder_dropout": 0.5}, "prompt.encoder_dropout: applies only to"),
        (
            "multitask_prompt_tuning",
            {"prompt.column": "domian"},
            'prompt.column: no column "domian"; columns are: text, label, domain',
        ),
        (
            "multitask_prompt_tuning",
            {"task.where": "{domain: [books]}"},
            'prompt.column: all rows of train have domain "books"; expected two or more tasks',
        ),
        ("multitask_prompt_tuning", {"prompt.num_ranks": 0}, "prompt.num_ranks: expected a number above 0, found 0"),
        (
            "multitask_prompt_tuning",
            {"prompt.factor_steps": 4, "training.steps": 8, "training.warmup_steps": 6},
            "prompt.factor_steps: expected more than training.warmup_steps (6), found 4; 0 leaves this stage out",
        ),
        (
            "lora",
            {"task.metrics": "[rouge_l]"},
            'task.metrics: "rouge_l" scores open targets, but this task has choices',
        ),
    ],
)
def test_settings_that_exclude_each_other(fail: Fail, recipe: str, flags: dict[str, Any], message: str) -> None:
    assert fail(recipe, **flags).startswith(message)


def test_an_encoder_has_no_text_to_begin_with(fail: Fail, tiny_encoder: Path) -> None:
    message = fail("prefix_tuning", **{"model.name_or_path": tiny_encoder})
    assert message == "prefix.init_text: requires a decoder, for which keys and values of a text replace the text"


def test_an_encoder_needs_choices(fail: Fail, tiny_encoder: Path) -> None:
    flags = {"model.name_or_path": tiny_encoder, "task.choices": "null", "task.metrics": "[exact_match]"}
    expected = f"task.choices: {tiny_encoder} is an encoder, which chooses between labels; list all of them"
    assert fail("lora", **flags) == expected


def test_a_task_that_train_lacks_is_named(fail: Fail, domain_task: Path, tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    rows = [{"text": f"a {label} poem", "label": label, "domain": "poems"} for label in ("positive", "negative")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    message = fail("multitask_prompt_tuning", **{"task.test": file})
    assert message == f'{file}:1: train has no row with domain "poems", only books, movies'


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{label}", ":1: the target is not JSON, as required by task.schema: "),
        (
            '{{"label": "{label}"}}',
            ":2: the target violates task.schema at label: 'positive' is not one of ['negative']",
        ),
        ('{{"lable": "{label}"}}', ":1: the target violates task.schema: 'label' is a required property"),
    ],
)
def test_a_target_that_breaks_its_schema_is_named(fail: Fail, target: str, message: str, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(
        json.dumps({"type": "object", "properties": {"label": {"enum": ["negative"]}}, "required": ["label"]})
    )
    train = tmp_path / "train.jsonl"
    rows = [{"text": f"film {i}", "label": label} for i, label in enumerate(("negative", "positive"))]
    train.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flags = {"task.schema": schema, "task.train": train, "task.target": target}
    flags |= {"task.choices": "null", "task.metrics": "[exact_match]"}
    assert fail("prompt_tuning", **flags).startswith(f"{train}{message}")
