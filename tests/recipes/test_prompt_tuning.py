"""`recipes/prompt_tuning.py` end to end, in a separate process: its output, stop and resume."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers import (
    cli_in_process,
    error_lines,
    load_base,
    losses,
    read_result,
    recipe_command,
    run_recipe,
    run_recipe_cold,
    start_recipe,
    tiny_flags,
)
from warm import WarmProcess

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prompt tuning")]  # they share the run `finished`

STEPS, EVERY, TOKENS = 120, 4, 5  # so many steps that a test can stop a run long before its end
FILES = {"adapter", "checkpoints", "config.json", "curves.png", "predictions.jsonl", "README.md", "result.json"}
Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def command(tiny_model: Path, tiny_task: Path) -> Command:
    """Return the command line for an output folder; further flags as keyword arguments, with _ for the dot."""

    def build(output: Path, *more: str, **flags: Any) -> list[str]:
        settings = tiny_flags(tiny_model, tiny_task, output) | {
            "prompt.num_virtual_tokens": TOKENS,
            "training.steps": STEPS,
            "training.learning_rate": 0.02,
            "training.batch_size": 8,
            "training.eval_every": EVERY,
        }
        return recipe_command("prompt_tuning", "sentiment", settings | flags, *more)

    return build


@pytest.fixture(scope="module")
def finished(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = run_recipe_cold(command(folder, **{"run.trackers": "[tensorboard]"}))
    assert done.returncode == 0, done.stderr
    assert f"written to {folder}" in done.stdout
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same_run(folder: Path, reference: Path) -> None:
    """Compare to the last bit: adapter, answers, every loss and validation, the best step."""
    for file in ("adapter/adapter_model.safetensors", "predictions.jsonl"):
        assert (folder / file).read_bytes() == (reference / file).read_bytes(), file
    ours, theirs = read_result(folder), read_result(reference)
    for key in ("history", "best_step", "best_value", "step", "tokens"):
        assert ours["training"][key] == theirs["training"][key], key
    assert ours["metrics"] == theirs["metrics"]


def test_a_run_leaves_all_that_it_promises(finished: Path, tiny_model: Path) -> None:
    assert {p.name for p in finished.iterdir()} == FILES | {"logs"}
    assert list((finished / "logs").rglob("events.out.tfevents.*"))
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    adapter = {p.name for p in (finished / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= adapter
    assert not [name for name in adapter if name.endswith((".bin", ".pt", ".pkl"))]
    card = (finished / "README.md").read_text(encoding="utf-8")
    assert "licence: that of your data" in card
    assert str(tiny_model) in card
    result = read_result(finished)
    assert result["settings"]["training"]["learning_rate"] == 0.02
    assert result["settings"]["model"]["name_or_path"] == str(tiny_model)
    for metric in ("accuracy", "macro_f1"):
        interval = result["metrics"][metric]
        assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
        assert interval["rows"] == 16
    assert result["baselines"]["majority_class"]["accuracy"]["value"] == 0.5
    assert result["parameters"]["trainable"] == result["parameters"]["saved"] == TOKENS * 32
    assert {"commit", "hardware", "versions", "processes"} <= result["environment"].keys()
    assert {"seconds_training", "training_tokens_per_second", "peak_memory_gib", "adapter_bytes"} <= result[
        "cost"
    ].keys()
    assert {k: v["rows"] for k, v in result["data"]["splits"].items()} == {"train": 40, "validation": 16, "test": 16}
    assert len(losses(result["training"]["history"])) == STEPS
    assert losses(result["training"]["history"])[-1] < losses(result["training"]["history"])[0]
    assert len((finished / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 16


def test_the_adapter_gives_the_recorded_answers_in_stock_peft(finished: Path, tiny_model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = PeftModel.from_pretrained(base, str(finished / "adapter"))
    lines = (finished / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    choices = [" positive", " negative"]
    scores = []
    for record in map(json.loads, lines):
        for choice, recorded in zip(choices, record["scores"], strict=True):
            prompt, whole = (
                tokenizer(t, return_tensors="pt").input_ids for t in (record["prompt"], record["prompt"] + choice)
            )
            with torch.inference_mode():
                likelihoods = model(input_ids=whole).logits[0, TOKENS:].log_softmax(-1)
            places = range(prompt.shape[1], whole.shape[1])
            scores.append(sum(likelihoods[i - 1, whole[0, i]].item() for i in places))
            assert scores[-1] == pytest.approx(recorded, abs=1e-3)
        assert record["prediction"] == choices[scores[-1] > scores[-2]]
    assert not torch.equal(model(input_ids=whole).logits[:, TOKENS:], load_base(tiny_model)[0](input_ids=whole).logits)


def test_a_start_from_labels_takes_the_choices_of_the_task(
    command: Command, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = {"prompt.prompt_tuning_init": "RANDOM", "prompt.init_from": "labels", "prompt.num_virtual_tokens": 2}
    # A rate that changes nothing: the saved values are the initial ones.
    flags |= {"training.steps": 1, "training.warmup_steps": 0, "training.learning_rate": 1e-30}
    code, _, errors = cli_in_process(command(tmp_path / "run", **flags), capfd)
    unread = "prompt.prompt_tuning_init_text: not read, because the initial values come from labels"
    assert (code, errors) == (0, [unread])
    base, tokenizer = load_base(tiny_model)
    weight = base.get_input_embeddings().weight
    ids = [tokenizer(label, add_special_tokens=False).input_ids for label in (" positive", " negative")]
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")["prompt_embeddings"]
    torch.testing.assert_close(saved, torch.stack([weight[i].mean(0) for i in ids]), rtol=0, atol=0)
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert not {"init_from", "init_labels"} & config.keys()


def test_two_ways_to_start_are_one_line_before_anything_is_written(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = cli_in_process(command(tmp_path / "run", **{"prompt.init_from": "labels"}), capfd)
    said = "labels requires prompt_tuning_init: RANDOM, found TEXT; set that, or init_from to null"
    assert (code, errors) == (2, [f"error: prompt.init_from: {said}"])
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_never_touched(command: Command, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(finished)
    code, _, errors = cli_in_process(command(finished), capfd)
    assert code == 2
    assert errors == [
        f"error: run.output_dir: {finished} is not empty; choose another folder, or continue with --resume"
    ]
    code, said, errors = cli_in_process(command(finished, "--resume"), capfd)
    assert (code, said, errors) == (0, f"{finished} contains a finished run; nothing to do\n", [])
    assert contents(finished) == before


def test_resuming_with_other_settings_says_what_changed(
    command: Command, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    changed = command(finished, "--resume", **{"training.learning_rate": 0.5, "run.seed": 1})
    code, _, errors = cli_in_process(changed, capfd)
    assert code == 2
    message = "training.learning_rate was 0.02 and is now 0.5; run.seed was 0 and is now 1"
    assert errors == [f"error: --resume: the settings of {finished} have changed: {message}"]
    assert contents(finished) == before


def stop_at(command: list[str], folder: Path, step: int, act: Callable[[WarmProcess], None]) -> tuple[int, str]:
    """Start a recipe and act once its checkpoint of `step`, or a later one, is there; return exit code and errors."""
    process = start_recipe(command)
    try:
        until = time.monotonic() + 900
        while not [p for p in (folder / "checkpoints").glob("step-*") if int(p.name[5:]) >= step]:
            assert process.poll() is None, f"ended with {process.returncode} before step {step}"
            assert time.monotonic() < until, "no checkpoint in time"
            time.sleep(0.002)
        act(process)
        errors = process.communicate(timeout=900)[1]
    finally:
        process.kill()
    return process.wait(), errors


def test_a_run_stopped_three_times_equals_an_uninterrupted_one(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    resume: list[str] = []
    for number, first in ((signal.SIGKILL, 0), (signal.SIGTERM, 16), (signal.SIGINT, 32)):
        step = random.randrange(first, first + 12)
        print(f"{number.name} behind the first checkpoint from step {step} on")
        code, errors = stop_at(command(folder, *resume), folder, step, lambda p, n=number: p.send_signal(n))
        assert not (folder / "result.json").exists(), "stopped too late for this test"
        assert code == (-number if number == signal.SIGKILL else 128 + number)
        assert "Traceback" not in errors
        assert list((folder / "checkpoints").glob("step-*"))
        resume = ["--resume"]
    done = run_recipe(command(folder, *resume))
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, finished)
    assert {p.name for p in folder.iterdir()} == FILES
    assert not list((folder / "checkpoints").glob(".*")), "nothing half written is left"


def test_two_processes_give_the_curve_of_one(command: Command, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    launch = ["-m", "accelerate.commands.launch", "--quiet", "--config_file", "configs/accelerate/multi_cpu.yaml"]
    done = run_recipe_cold([*launch, *command(folder)], ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    assert error_lines(done.stderr) == [], "nothing about buffers"
    ours, theirs = read_result(folder), read_result(finished)
    assert ours["environment"]["processes"] == 2
    assert losses(ours["training"]["history"]) == pytest.approx(losses(theirs["training"]["history"]), rel=1e-5)
    assert {p.name for p in folder.iterdir()} == FILES, "one set of files"
    lines = [(f / "predictions.jsonl").read_text(encoding="utf-8").splitlines() for f in (folder, finished)]
    answers = [[json.loads(line) for line in file] for file in lines]
    for mine, one in zip(*answers, strict=True):
        assert (mine["place"], mine["prediction"]) == (one["place"], one["prediction"])
        assert mine["scores"] == pytest.approx(one["scores"], rel=1e-3)
    assert done.stdout.count(f"written to {folder}") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB, if this process may."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    mounted = mount and os.geteuid() == 0
    if (
        not mounted
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount; test_training_stops.py fills a disk in another way")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_leaves_the_previous_checkpoint(command: Command, finished: Path, small_disk: Path) -> None:
    folder, filler = small_disk / "run", small_disk / "filler"

    def fill(_: WarmProcess) -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 512)
            except OSError:
                return

    code, errors = stop_at(command(folder), folder, 2 * EVERY, fill)
    assert code == 2
    (said,) = error_lines(errors)
    assert said.startswith(f"error: {folder / 'checkpoints'}")
    assert said.endswith("the disk is full; saved files are unharmed. Free space, then --resume")
    filler.unlink()
    resumed = run_recipe(command(folder, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(folder, finished)
