"""Bad input to a recipe: exit code 2, one line with the error and its place, and no loss of files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import ROOT, cli_in_process, error_lines, recipe_command, run_recipe, tiny_flags

import pytest
from tokenizers import Tokenizer, normalizers

Fail = Callable[..., str]
NOTHING = "\u200b"


@pytest.fixture
def flags(tiny_model: Path, tiny_task: Path, tmp_path: Path) -> dict[str, Any]:
    """Return the flags of a valid run, on a copy of the task that a test may damage."""
    data = tmp_path / "data"
    shutil.copytree(tiny_task, data)
    return tiny_flags(tiny_model, data, tmp_path / "run") | {"training.steps": 1, "training.warmup_steps": 0}


@pytest.fixture
def fail(flags: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> Fail:
    """Run the recipe with more flags, see it fail as it should, and return its line without `error: `."""

    def run(*more: str, **changes: Any) -> str:
        code, _, errors = cli_in_process(recipe_command("prompt_tuning", "sentiment", flags | changes, *more), capfd)
        assert code == 2, errors
        assert len(errors) == 1, errors
        assert errors[0].startswith("error: ")
        return errors[0].removeprefix("error: ")

    return run


def test_the_flags_work_as_long_as_nothing_is_wrong(flags: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    code, said, errors = cli_in_process(recipe_command("prompt_tuning", "sentiment", flags), capfd)
    assert (code, errors) == (0, [])
    assert f"written to {flags['run.output_dir']}" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--training.lerning_rate", "1"], '"--training.lerning_rate" (did you mean "training.learning_rate"?)'),
        (["--task.prompt", "{txt}"], 'no column "txt"; columns are: text, label'),
        (["--model.name_or_path", "bundled:smollm2-153m"], '"smollm2-153m" (did you mean "bundled:smollm2-135m-in'),
        (["--prompt.num_virtual_tokens", "256"], "num_virtual_tokens: 256 virtual tokens leave no room in the"),
        (["--training.batch_size", "99999"], "training.batch_size: 99999 is more than 100 times the 40 rows of train"),
    ],
    ids=["command line", "data", "base model", "method", "training"],
)  # fmt: skip
def test_each_part_of_a_run_fails_with_one_line(fail: Fail, more: list[str], message: str) -> None:
    assert message in fail(*more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--training.steps", "many"], "training.steps: expected whole number, found many"),
        (["--model.dtype", "float23"], "model.dtype: expected auto | float32 | bfloat16 | float16, found float23"),
        (["--task.dataset", "embedded:sentimnt"], 'embedded:sentimnt (did you mean "embedded:sentiment"?)'),
        (["--task.max_length", "1", "--task.long_rows", "cut_prompt"], "do not fit into 1; raise task.max_length"),
        (["--task.metrics", "[acuracy]"], 'task.metrics: no metric "acuracy" (did you mean "accuracy"?)'),
        (["--training.best_by", "acuracy"], 'training.best_by: "acuracy" (did you mean "accuracy"?)'),
        (["--training.micro_batch_tokens", "0"], "training.micro_batch_tokens: expected a number above 0, found 0"),
        (["--prompt.prompt_tuning_init_text", ""], "TEXT requires a text"),
        (["--run.trackers", "[tensorbord]"], 'unknown tracker "tensorbord" (did you mean "tensorboard"?)'),
    ],
)  # fmt: skip
def test_settings(fail: Fail, more: list[str], message: str) -> None:
    assert message in fail(*more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("learning_rate:", "lerning_rate:"), '"training.lerning_rate" (did you mean "training.learning_rate"?)'),
        (("run:\n", "extra: 1\nrun:\n"), 'unknown key "extra"'),
        (("seed: 0", "seed: zero"), "run.seed: expected whole number, found zero"),
        (("training:", "training: ["), "not valid YAML"),
        (None, "is empty"),
    ],
)  # fmt: skip
def test_config_file(
    flags: dict[str, Any],
    change: tuple[str, str] | None,
    message: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "config.yaml"
    text = (ROOT / "configs/sentiment/prompt_tuning.yaml").read_text(encoding="utf-8")
    config.write_text(text.replace(*change) if change else "", encoding="utf-8")
    code, _, errors = cli_in_process(["recipes/prompt_tuning.py", "--config", str(config)], capfd)
    assert code == 2
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]


@pytest.mark.slow
def test_missing_config_file(capfd: pytest.CaptureFixture[str]) -> None:
    command = ["recipes/prompt_tuning.py", "--config", "configs/sentiment/prompt_tunig.yaml"]
    expected = "error: no such config file: configs/sentiment/prompt_tunig.yaml (nearest: configs/sentiment/"
    code, _, errors = cli_in_process(command, capfd)
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith(f"{expected}prompt_tuning.yaml, ")
    assert errors[0].endswith(f"; all are below {ROOT / 'configs'})")


def edit(file: Path, number: int, line: bytes) -> None:
    lines = file.read_bytes().split(b"\n")
    lines[number - 1] = line
    file.write_bytes(b"\n".join(lines))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "caf\xe9", "label": "positive"}', ":3: not UTF-8 (byte 0xe9)"),
        (b'{"text": "a film" "label": "positive"}', ":3: malformed JSON: "),
        (b'{"text": "a film"}', ':3: no column "label"; columns are: text'),
        (b'{"text": "film", "label": "postive"}', ':3: label " postive" is outside task.choices (did you mean'),
        (b'["a film", "positive"]', ":3: expected a JSON object, found list"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_bad_line_is_named(fail: Fail, flags: dict[str, Any], split: str, line: bytes, message: str) -> None:
    file = flags[f"task.{split}"]
    edit(file, 3, line)
    assert f"{file}{message}" in fail()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "no such file: {file}"),
        (lambda file: file.write_bytes(b""), "{file}: is empty"),
        (lambda file: file.write_bytes(b"\n\n"), "{file}: has no rows"),
    ],
)
def test_a_bad_file_is_named(fail: Fail, flags: dict[str, Any], spoil: Callable[[Path], Any], message: str) -> None:
    file = flags["task.validation"]
    spoil(file)
    assert fail().startswith(message.format(file=file))


@pytest.mark.slow
def test_a_row_too_long_is_named(fail: Fail, flags: dict[str, Any]) -> None:
    long = json.dumps({"text": "the film was good " * 30, "label": "positive"})
    edit(flags["task.train"], 7, long.encode())
    message = fail(**{"task.max_length": 100})
    assert message.startswith(f"{flags['task.train']}:7: ")
    assert "do not fit into 100; raise task.max_length, shorten the row, or set task.long_rows to cut_prompt" in message


@pytest.mark.slow
def test_a_target_that_tokenizes_to_nothing_is_named(fail: Fail, flags: dict[str, Any], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(flags["model.name_or_path"], model)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Replace(NOTHING, "")
    tokenizer.save(str(model / "tokenizer.json"))
    edit(flags["task.train"], 5, json.dumps({"text": "a film", "label": NOTHING}).encode())
    changes = {"model.name_or_path": model, "task.choices": "null", "task.target": "{label}"}
    changes |= {"task.metrics": "[exact_match]", "training.best_by": "loss"}
    assert fail(**changes) == f"{flags['task.train']}:5: the target {NOTHING!r} tokenizes to nothing"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["empty folder", "no folder", "a file", "damaged"])
def test_a_folder_that_is_no_model(fail: Fail, flags: dict[str, Any], kind: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    if kind == "a file":
        model.touch()
    elif kind == "damaged":
        shutil.copytree(flags["model.name_or_path"], model)
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "empty folder":
        model.mkdir()
    message = fail(**{"model.name_or_path": model})
    assert message.startswith("model.name_or_path: ")
    assert str(model) in message


@pytest.mark.slow
def test_the_same_command_works_once_the_input_is_mended(
    fail: Fail, flags: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    good = flags["task.train"].read_bytes()
    edit(flags["task.train"], 3, b"{")
    fail()
    flags["task.train"].write_bytes(good)
    assert cli_in_process(recipe_command("prompt_tuning", "sentiment", flags), capfd)[0] == 0


@pytest.mark.slow
def test_in_a_process_of_its_own(flags: dict[str, Any]) -> None:
    edit(flags["task.train"], 3, b"{")
    done = run_recipe(recipe_command("prompt_tuning", "sentiment", flags))
    assert done.returncode == 2
    assert [line.partition(": malformed")[0] for line in error_lines(done.stderr)] == [
        f"error: {flags['task.train']}:3"
    ]
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACCELERATE_USE_CPU", "maybe"),
        ("ACCELERATE_DYNAMO_BACKEND", "zzz"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "few"),
        ("ACCELERATE_MIXED_PRECISION", "fp7"),
    ],
)
def test_a_launch_with_a_value_that_accelerate_does_not_know(variable: str, value: str, flags: dict[str, Any]) -> None:
    done = run_recipe(recipe_command("prompt_tuning", "sentiment", flags), **{variable: value})
    assert done.returncode == 2, done.stderr
    (line,) = error_lines(done.stderr)
    assert line.startswith("error: launch: ")
    assert line.endswith(f"; correct {variable}, or its key in the launch file")
    assert "Traceback" not in done.stderr + done.stdout
