"""YAML files and flags become typed settings, and every mistake is one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from softprompts.config.cli import build_parser, cli, parse
from softprompts.config.methods import PromptConfig
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig, TrainingConfig
from softprompts.errors import Interrupted, RunFinished, UserError

import pytest

MINIMAL = """
task:
  prompt: "{text}"
  target: " {label}"
prompt:
  num_virtual_tokens: 4
run:
  output_dir: out
"""

Parse = Callable[..., dict[str, Any]]


def recipe(
    model: ModelConfig,
    task: TaskConfig,
    prompt: PromptConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    run: RunConfig,
) -> None:
    """Replace a recipe's main."""


@pytest.fixture
def parsed(tmp_path: Path) -> Parse:
    """Return a function that parses MINIMAL plus more YAML, then flags."""

    def go(more: str = "", *flags: str, text: str = MINIMAL) -> dict[str, Any]:
        path = tmp_path / "c.yaml"
        path.write_text(text + more, encoding="utf-8")
        return parse(recipe, ["--config", str(path), *flags])

    return go


def message(parsed: Parse, *args: str, **kwargs: str) -> str:
    with pytest.raises(UserError) as caught:
        parsed(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_yaml_gives_typed_settings_and_the_rest_are_defaults(parsed: Parse) -> None:
    settings = parsed("training: {steps: 7, learning_rate: 1e-3}\n")
    assert list(settings) == ["model", "task", "prompt", "training", "evaluation", "run"]
    assert settings["training"] == TrainingConfig(steps=7, learning_rate=1e-3)
    assert settings["task"] == TaskConfig(prompt="{text}", target=" {label}")
    assert settings["run"] == RunConfig(output_dir="out")
    assert isinstance(settings["prompt"], PromptConfig)
    assert settings["prompt"].num_virtual_tokens == 4


def test_a_schema_for_editors_is_no_setting(parsed: Parse) -> None:
    assert parsed("$schema: prompt_tuning.schema.json\n") == parsed()
    assert 'unknown key "$schema"' in message(parsed, "$schema: {a: 1}\n")


READS = """
import sys
from softprompts.config.cli import cli
from softprompts.config.sections import TaskConfig
def main(task: TaskConfig) -> None:
    print(ascii(task.prompt))
cli(main)
"""


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_b8_a_config_file_is_utf8_whatever_the_terminal_is(tmp_path: Path, start: bytes) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(start + 'task: {prompt: "{café} 👍", target: "{label}"}\n'.encode())
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", READS, "--config", str(file)]
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == r"'{caf\xe9} \U0001f44d'" + "\n"


def test_b8_text_that_is_not_utf8_is_one_line(parsed: Parse) -> None:
    assert message(parsed, "", "--task.name", "caf\udce9") == "argument: not UTF-8: 'caf\\udce9'"
    assert message(parsed, 'training: {best_by: "\\ud83d"}\n').endswith(
        "c.yaml: contains half of a surrogate pair, '\\ud83d'"
    )


def test_flag_wins_over_yaml_on_either_side_of_it(parsed: Parse, tmp_path: Path) -> None:
    assert parsed("training: {steps: 7}\n", "--training.steps", "9")["training"].steps == 9
    assert parsed("training: {steps: 7}\n", "--training.steps=9")["training"].steps == 9
    assert parsed()["training"].steps == TrainingConfig().steps
    first = tmp_path / "first.yaml"
    first.write_text(MINIMAL + "training: {steps: 7}\n", encoding="utf-8")
    assert parse(recipe, ["--training.steps", "9", "--config", str(first)])["training"].steps == 9
    path = tmp_path / "second.yaml"
    path.write_text("training: {steps: 11}\n", encoding="utf-8")
    assert parsed("training: {steps: 7}\n", "--config", str(path))["training"].steps == 11


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("training: {stepz: 1}\n", 'unknown key "training.stepz" (did you mean "training.steps"?)'),
        ("trainig: {steps: 1}\n", 'unknown key "trainig" (did you mean "training"?)'),
        ("model: {learning_rate: 1}\n", 'unknown key "model.learning_rate" (did you mean "training.learning_rate"?)'),
        ("training: {steps: abc}\n", "training.steps: expected whole number, found abc"),
        ("training: {steps: 1.5}\n", "training.steps: expected whole number, found 1.5"),
        ("training: {steps: null}\n", "training.steps: expected whole number, found null"),
        ("training: {optimizer: adamv}\n", 'expected adamw | adafactor | muon, found adamv (did you mean "adamw"?)'),
        ("model: {dtype: null}\n", "model.dtype: expected auto | float32 | bfloat16 | float16, found null"),
        ("model: {revision: 1234}\n", "model.revision: expected text | null, found 1234; quote texts"),
        ("evaluation: {stop: [{a}]}\n", """[text, ...], found {'a': None}; quote a template: "{a}\""""),
        ("evaluation: {batch_size: 0}\n", "evaluation.batch_size: expected a number above 0, found 0"),
        (
            "evaluation: {bootstrap_resamples: null}\n",
            "evaluation.bootstrap_resamples: expected whole number, found null",
        ),
        ("evaluation: {stop: null}\n", "evaluation.stop: expected [text, ...], found null"),
        (
            "training: {learning_rate: .inf}\n",
            "training.learning_rate: expected number, found inf; use a finite number",
        ),
        (
            "training: {learning_rate: .nan}\n",
            "training.learning_rate: expected number, found nan; use a finite number",
        ),
        ("training: {best_by: loss}\nrun.seed: null\n", "run.seed: expected whole number, found null"),
        ("training: {max_grad_norm: -.inf}\n", "training.max_grad_norm: expected number, found -inf"),
        (
            "training: {steps: 1}\ntraining.steps: 3\n",
            ": training.steps appears twice: as training: {steps: ...} and as training.steps",
        ),
        (
            "task.where.a: [x]\ntraining.eval_every: 3\ntask.where: {b: [y]}\n",
            ": task.where appears twice: as task.where.a and as task.where",
        ),
        ("training:\n", "training: expected keys below it, found nothing"),
        ("run: {output_dir: twice}\n", 'key "run" appears twice'),
    ],
)
def test_yaml_mistakes(parsed: Parse, more: str, expected: str) -> None:
    assert expected in message(parsed, more)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--training.stepz", "1"], 'unknown flag "--training.stepz" (did you mean "training.steps"?)'),
        (["--training.stepz=1"], 'unknown flag "--training.stepz" (did you mean "training.steps"?)'),
        (["--training.step", "1"], 'unknown flag "--training.step" (did you mean "training.steps"?)'),
        (["--steps", "1"], 'unknown flag "--steps" (did you mean "training.steps"?)'),
        (["--resum"], 'unknown flag "--resum"'),
        (["--task.where", "{a: [b], a: [c]}"], 'task.where: not valid YAML: key "a" appears twice'),
        (["--task.where={a: [b], a: [c]}"], 'task.where: not valid YAML: key "a" appears twice'),
        (["--training.steps", "abc"], "training.steps: expected whole number, found abc"),
        (["--training.steps"], "--training.steps: expected one argument"),
        (["--config"], "--config: expected one argument"),
        (["--model.dtype", "bfloat"], 'found bfloat (did you mean "bfloat16"?)'),
        (["--run.seed", "-1"], "run.seed: expected a number from 0 to 4294967295, found -1"),
        (["--run.seed", str(2**32)], "run.seed: expected a number from 0 to 4294967295, found 4294967296"),
        (["--run.seed", "null"], "run.seed: expected whole number, found None"),
        (["--training.weight_decay", ".inf"], "training.weight_decay: expected number, found inf; use a finite number"),
        (["stray"], "unrecognized arguments: stray"),
        (["--prompt.inference_mode", "true"], 'unknown flag "--prompt.inference_mode": the library sets'),
        (["--prompt.tokenizer_name_or_path", "x"], 'unknown flag "--prompt.tokenizer_name_or_path": the library sets'),
    ],
)
def test_flag_mistakes(parsed: Parse, flags: list[str], expected: str) -> None:
    assert expected in message(parsed, "", *flags)


@pytest.mark.parametrize("field", ["inference_mode: true", "tokenizer_name_or_path: x", "task_type: CAUSAL_LM"])
def test_fields_that_peft_fills_itself_are_no_keys(parsed: Parse, field: str) -> None:
    text = MINIMAL.replace("num_virtual_tokens: 4", f"num_virtual_tokens: 4\n  {field}")
    key = field.partition(":")[0]
    assert f'unknown key "prompt.{key}": the library sets' in message(parsed, text=text)


def test_a_prompt_begins_with_a_text_unless_something_else_is_said(parsed: Parse) -> None:
    assert parsed("")["prompt"] == PromptConfig(num_virtual_tokens=4)
    assert parsed("", "--prompt.init_from=labels")["prompt"].init_from == "labels"
    assert parsed("", "--prompt.prompt_tuning_init=RANDOM")["prompt"].prompt_tuning_init == "RANDOM"


def test_misspelt_init_is_an_error_and_not_silently_random(parsed: Parse) -> None:
    expected = 'expected TEXT | SAMPLE_VOCAB | RANDOM | null, found text (did you mean "TEXT"?)'
    assert expected in message(parsed, "", "--prompt.prompt_tuning_init", "text")


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ('[" a", " b"]', [" a", " b"]),
        ('{neg: " bad", pos: " good"}', {"neg": " bad", "pos": " good"}),
        ('{0: " bad", 1: " good"}', {0: " bad", 1: " good"}),
        ("from_train", "from_train"),
        ("null", None),
    ],
)
def test_choices(parsed: Parse, yaml: str, expected: Any) -> None:
    text = MINIMAL.replace('" {label}"', f'" {{label}}"\n  choices: {yaml}')
    assert parsed(text=text)["task"].choices == expected


def test_choices_of_the_wrong_type(parsed: Parse) -> None:
    text = MINIMAL.replace('" {label}"', '" {label}"\n  choices: [yes, no]')
    assert "found [True, False]; quote texts that YAML reads as another type" in message(parsed, text=text)


def test_mappings_take_flags_for_single_keys(parsed: Parse) -> None:
    task = parsed("", "--task.max_rows.test", "5", "--task.where", "{domain: [movies]}")["task"]
    assert (task.max_rows, task.where) == ({"test": 5}, {"domain": ["movies"]})


@pytest.mark.parametrize("template", ["{text}", "{{x}} {text}", "{text}: {text}", '{{"a": {text}, "a": 1}}'])
def test_a_template_is_no_mapping(parsed: Parse, template: str) -> None:
    assert parsed("", "--task.prompt", template)["task"].prompt == template


def test_resume_stands_for_run_resume(parsed: Parse) -> None:
    assert parsed("", "--resume")["run"].resume is True
    assert parsed()["run"].resume is False


@pytest.mark.parametrize(
    ("removed", "key"), [('  target: " {label}"\n', "task.target"), ("  output_dir: out\n", "run.output_dir")]
)
def test_required_keys(parsed: Parse, removed: str, key: str) -> None:
    text = MINIMAL.replace(removed, "").replace("run:\n", "" if "output" in removed else "run:\n")
    assert f"required: {key}" in message(parsed, text=text)


def test_missing_config_file() -> None:
    with pytest.raises(UserError, match=r"no such config file: nowhere\.yaml"):
        parse(recipe, ["--config", "nowhere.yaml"])
    with pytest.raises(UserError, match=r"no such config file: nowhere\.yaml"):
        parse(recipe, ["--config=nowhere.yaml"])


def test_printed_config_can_be_fed_back(parsed: Parse, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = 'training: {steps: 7}\nevaluation: {batch_size: 3}\nmodel: {revision: "1234"}\n'
    before = parsed(more, "--task.prompt", "{text}\nSentiment:", "--task.choices", '{0: " bad", 1: " good"}')
    with pytest.raises(SystemExit) as caught:
        parsed(
            more, "--task.prompt", "{text}\nSentiment:", "--task.choices", '{0: " bad", 1: " good"}', "--print_config"
        )
    assert caught.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert parse(recipe, ["--config", str(path)]) == before


def test_an_argument_that_is_no_dataclass_is_the_authors_mistake() -> None:
    def main(steps: int) -> None: ...

    with pytest.raises(TypeError, match="steps is not a dataclass"):
        build_parser(main)


def one_section(run: RunConfig) -> None:
    if run.output_dir == "bad":
        raise UserError("run.output_dir: bad")
    if run.output_dir == "interrupted":
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("output_dir", "code", "line"), [("bad", 2, "error: run.output_dir: bad\n"), ("interrupted", 130, "")]
)
def test_cli_exit_codes(
    output_dir: str, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe", "--run.output_dir", output_dir])
    with pytest.raises(SystemExit) as caught:
        cli(one_section)
    assert (caught.value.code, capsys.readouterr().err) == (code, line)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "error: /data/x: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device\n"),
    ],
)
def test_b12_an_error_of_the_system_that_escapes_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    def fails(run: RunConfig) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["recipe.py", "--run.output_dir", "out"])
    with pytest.raises(SystemExit) as stopped:
        cli(fails)
    assert (stopped.value.code, capsys.readouterr().err) == (2, line)


@pytest.mark.parametrize("error", [KeyError("ours"), OSError("a library's own"), OSError(errno.EBADF, "ours")])
def test_b12_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(run: RunConfig) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["recipe.py", "--run.output_dir", "out"])
    with pytest.raises(type(error)):
        cli(fails)


def test_cli_returns_after_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe", "--run.output_dir", "good"])
    cli(one_section)


@pytest.mark.parametrize(
    ("error", "code"),
    [(RunFinished("a line"), None), (Interrupted("a line", 15), 143), (Interrupted("a line", 2), 130)],
)
def test_a_run_that_ends_on_purpose_is_one_line_and_its_code(
    error: Exception, code: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(run: RunConfig) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["recipe.py", "--run.output_dir", "x"])
    with pytest.raises(SystemExit) if code else nullcontext() as stopped:
        cli(main)
    assert (stopped.value.code if stopped else None) == code
    assert tuple(capsys.readouterr()) == ("a line\n", "")


def test_cli_speaks_once_for_all_processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe", "--run.sed", "1"])
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as caught:
        cli(one_section)
    assert (caught.value.code, capsys.readouterr().err) == (2, "")


def test_a_mistake_in_a_real_process_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    script = tmp_path / "recipe.py"
    script.write_text(
        textwrap.dedent(
            """
            from softprompts.config.cli import cli
            from softprompts.config.sections import RunConfig

            def main(run: RunConfig) -> None: ...

            cli(main)
            """
        ),
        encoding="utf-8",
    )
    command = [sys.executable, str(script), "--run.outputdir", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'error: unknown flag "--run.outputdir" (did you mean "run.output_dir"?)\n'
    assert done.stdout == ""


def test_no_arguments_at_all_name_what_is_missing() -> None:
    with pytest.raises(UserError, match="required"):
        parse(recipe, [])
