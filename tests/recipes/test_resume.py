"""Resume, owners and terminals end to end: refused runs, finished runs, and the files in the folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import (
    ROOT,
    cli_in_process,
    error_lines,
    main_in_process,
    read_result,
    recipe_environment,
    run_recipe,
    run_recipe_cold,
    start_recipe,
)
from method_runs import LENGTH, METHODS, OPEN, method_command, short_command
from softprompts.training import loop as training
from warm import WarmProcess

import pytest
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

SWEEP = LENGTH | {"sweep.grid": "{run.seed: [0, 1]}"}
Stop = Callable[..., list[str]]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def stopped(tiny_model: Path, domain_task: Path, tmp_path: Path) -> Stop:
    """Run a method, or a sweep, on copies of model and task until SIGTERM at an update; return its command line."""
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copytree(domain_task, tmp_path / "task")

    def run(method: str, at: int = 6, **flags: Any) -> list[str]:
        places = (tmp_path / "model", tmp_path / "task", tmp_path / "run")
        if method in METHODS:
            command = method_command(method, *places, **flags)
        else:
            own = SWEEP if method == "sweep" else LENGTH
            command = short_command(method, *places, **(own | flags))
        original, calls = training.update, []

        def counted(*arguments: Any) -> Any:
            calls.append(0)
            if len(calls) == at:
                signal.raise_signal(signal.SIGTERM)
            return original(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "update", counted)
            assert main_in_process(command) == 128 + signal.SIGTERM
        return command

    return run


def half_the_rows(folder: Path) -> str:
    file = folder / "task" / "train.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:20]))
    return "train had 40 rows and now has 20"


def swapped_labels(folder: Path) -> str:
    file = folder / "task" / "validation.jsonl"
    text = file.read_text().replace('"positive"', '"?"').replace('"negative"', '"positive"')
    file.write_text(text.replace('"?"', '"negative"'))
    return "validation has other rows, in the same number (16)"


def other_weights(folder: Path) -> str:
    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    tensors[name] = tensors[name] + 0.1
    save_file(tensors, file, {"format": "pt"})
    return f"the base model {folder / 'model'} has other weights"


@pytest.mark.parametrize(
    ("method", "at", "change"),
    [
        ("prompt_tuning", 6, half_the_rows),
        ("prompt_tuning", 6, swapped_labels),
        ("prompt_tuning", 6, other_weights),
        ("full", 6, other_weights),
        ("lora", 6, other_weights),
        ("sweep", 6, half_the_rows),
        ("sweep", 6, other_weights),
        ("multitask", 10, half_the_rows),  # in its second stage
        ("multitask", 10, other_weights),
    ],
)
def test_a9_resume_is_refused_over_other_data_or_weights(
    stopped: Stop,
    method: str,
    at: int,
    change: Callable[[Path], str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = stopped(method, at)
    said = change(tmp_path)
    before = contents(tmp_path / "run")
    code, _, errors = cli_in_process([*command, "--resume"], capfd)
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].startswith(f"error: --resume: {tmp_path / 'run' / 'checkpoints'}")
    assert f" was trained on something else: {said}. Put back what it was trained on, or choose" in errors[0]
    assert contents(tmp_path / "run") == before


def other_ends(folder: Path) -> str:
    file = folder / "model" / "generation_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"eos_token_id": [1, 5]}))
    return "generated predictions ended at the tokens [1] and now end at [1, 5]"


def other_decoder(folder: Path) -> str:
    file = folder / "model" / "tokenizer.json"
    read = json.loads(file.read_text())
    further = {"type": "Strip", "content": "~", "start": 1, "stop": 0}
    decoder = {"type": "Sequence", "decoders": [read["decoder"], further]}
    file.write_text(json.dumps(read | {"decoder": decoder}))
    return "the tokenizer of the base model has another decoder"


@pytest.mark.parametrize("change", [other_ends, other_decoder])
def test_resume_is_refused_where_written_answers_end_or_read_otherwise(
    stopped: Stop, change: Callable[[Path], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = stopped("prompt_tuning", **OPEN)
    said = change(tmp_path)
    code, _, errors = cli_in_process([*command, "--resume"], capfd)
    assert (code, len(errors)) == (2, 1), errors
    assert f" was trained on something else: {said}. Put back what it was trained on, or choose" in errors[0]


def test_b4_a_run_that_failed_at_its_test_is_finished_with_other_evaluation(
    stopped: Stop, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = stopped("prompt_tuning", **OPEN)
    (tmp_path / "run" / "README.md").write_text("my notes")
    changed = ["--evaluation.max_new_tokens", "3", "--evaluation.bootstrap_resamples", "10", "--resume"]
    code, said, errors = cli_in_process([*command, *changed], capfd)
    assert (code, errors) == (0, [])
    assert "continuing with evaluation.max_new_tokens 3 instead of 5\n" in said
    result = read_result(tmp_path / "run")
    assert result["settings"]["evaluation"]["max_new_tokens"] == 3
    assert {"key": "evaluation.max_new_tokens", "was": 5, "is": 3} in result["notes"]["resumed"]
    assert (tmp_path / "run" / "README.md").read_text() == "my notes"
    assert "The whole record is in" in (tmp_path / "run" / "run-1-README.md").read_text()


def test_b11_a_damaged_checkpoint_is_said_and_the_run_ends_as_if_nothing_had_been(
    stopped: Stop, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = stopped("prompt_tuning")
    weights = tmp_path / "run" / "checkpoints" / "step-000006" / "trainable.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    shutil.copytree(weights.parent, weights.parent.with_name("step-000006-backup"))
    code, said, errors = cli_in_process([*command, "--resume"], capfd)
    assert (code, errors) == (0, [])
    assert "going on from step-000004, an earlier checkpoint: trainable.safetensors of step-000006 is damaged" in said
    assert (weights.parent.with_name("step-000006-backup") / "state.json").is_file()
    fresh = [str(tmp_path / "fresh") if word == str(tmp_path / "run") else word for word in command]
    assert main_in_process(fresh) == 0
    ours, theirs = (read_result(tmp_path / name)["training"]["history"] for name in ("run", "fresh"))
    assert ours == theirs


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str] | WarmProcess) -> None:
    until = time.monotonic() + 600
    while not there():
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a10_the_second_run_is_refused_and_the_first_goes_on(
    tiny_model: Path, domain_task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    command = short_command("prompt_tuning", tiny_model, domain_task, folder, **LENGTH)
    first = start_recipe(command)
    try:
        wait_for((folder / "config.json").is_file, first)
        first.send_signal(signal.SIGSTOP)
        for more in ([], ["--resume"]):
            code, _, errors = cli_in_process([*command, "--run.seed", "1", *more], capfd)
            assert (code, len(errors)) == (2, 1)
            assert errors[0].startswith(f"error: run.output_dir: {folder} is in use by process {first.pid} on ")
        first.send_signal(signal.SIGCONT)
        errors_of_first = first.communicate(timeout=600)[1]
    finally:
        first.kill()
    assert first.returncode == 0, errors_of_first
    assert read_result(folder)["seed"] == 0
    assert not (folder / ".run.lock").exists()


def test_a10_a_killed_run_of_two_processes_has_one_lock_and_goes_on(
    tiny_model: Path, domain_task: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    flags = LENGTH | {"training.steps": 200}
    command = short_command("prompt_tuning", tiny_model, domain_task, folder, **flags)
    launch = ["-m", "accelerate.commands.launch", "--quiet", "--config_file", "configs/accelerate/multi_cpu.yaml"]
    environment = {"ACCELERATE_USE_CPU": "true"}
    first = subprocess.Popen(
        [sys.executable, *launch, *command],
        cwd=ROOT,
        env=recipe_environment() | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for((folder / "checkpoints" / "step-000008").is_dir, first)
        (owner,) = re.findall(r"^pid=(\d+)$", (folder / ".run.lock").read_text(), re.MULTILINE)
        os.kill(int(owner), signal.SIGKILL)
        first.communicate(timeout=600)  # it ends the other process
    finally:
        first.kill()
    assert (folder / ".run.lock").exists()
    assert not (folder / "result.json").exists(), "killed too late for this test"
    done = run_recipe([*command, "--resume"], **environment)
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stdout
    assert {p.name for p in folder.iterdir() if p.name.startswith(".")} == set()


def test_c1_home_and_variables_in_a_config_file(
    tiny_model: Path,
    domain_task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TASKS", str(domain_task))
    (tmp_path / "m").symlink_to(tiny_model)
    flags = {"model.name_or_path": "~/m", "run.output_dir": "~/runs/x"}
    flags |= {f"task.{split}": f"${{TASKS}}/{split}.jsonl" for split in ("train", "validation", "test")}
    command = short_command("prompt_tuning", tiny_model, domain_task, tmp_path / "run", **(LENGTH | flags))
    command += ["--training.steps", "1"]
    code, said, errors = cli_in_process(command, capfd)
    assert (code, errors) == (0, [])
    assert f"written to {tmp_path / 'runs' / 'x'}\n" in said
    record = json.loads((tmp_path / "runs" / "x" / "config.json").read_text())
    assert record["task"]["train"] == f"{domain_task}/train.jsonl", "where the rows came from"
    assert record["model"]["name_or_path"] == f"{tmp_path}/m"
    assert not (ROOT / "~").exists()


# Runs two command lines one after the other, and prints how each ended.
TWO = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        print("ended with", ended.code)
"""


def test_b13_a_home_that_cannot_be_written_needs_no_cache(tiny_model: Path, domain_task: Path, tmp_path: Path) -> None:
    metric = tmp_path / "length.py"
    metric.write_text("import evaluate\n\nclass Length(evaluate.Metric):\n    pass\n")
    flags = LENGTH | {"training.steps": 1, "training.eval_every": 1}
    places = {name: (tiny_model, domain_task, tmp_path / name) for name in ("run", "other")}
    commands = [
        short_command("prompt_tuning", *places["run"], **flags),
        short_command("prompt_tuning", *places["other"], "--task.metrics", f"[{metric}]", **flags),
    ]
    homeless = {"HF_HOME": "/proc/nowhere", "HOME": "/proc/nowhere"}  # read when the libraries are imported
    done = run_recipe_cold(["-c", TWO, json.dumps(commands)], **homeless)
    assert f"written to {tmp_path / 'run'}\n" in done.stdout
    assert done.stdout.endswith("\nended with 2\n")
    (said,) = error_lines(done.stderr)
    assert said.startswith(f'error: task.metrics: cannot load "{metric}": /proc/nowhere')
    assert "set HF_HOME to another folder" in said
