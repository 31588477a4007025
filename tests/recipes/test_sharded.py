"""Recipes with a base model that is shared out over processes, against the same recipe in one process."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from helpers import (
    FSDP,
    error_lines,
    losses,
    read_result,
    recipe_command,
    run_recipe,
    run_recipe_cold,
    run_together,
    tiny_flags,
)
from method_runs import OPEN, method_command, read_predictions, short_command

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

# Each process draws its own dropout, so two processes drop other values than one.
SURE = {"lora": {"lora.lora_dropout": 0}, "context": {"context.token_dropout": 0}}
PROMPT = {"prompt.num_virtual_tokens": 5}
# A forward pass of many micro-batches, of which the two processes make different numbers.
SMALL = {"training.micro_batch_tokens": 40}


def saved(folder: Path) -> dict[str, Any]:
    """Return the tensors of all adapters, or of the model, that a run has saved."""
    files = [file for name in ("adapter", "model") for file in sorted((folder / name).rglob("*.safetensors"))]
    found = {f"{file.relative_to(folder)} {key}": t for file in files for key, t in load_file(file).items()}
    assert found
    return found


def assert_alike(ours: Path, theirs: Path) -> None:
    """Check that two runs differ only by rounding: losses, answers and saved files."""
    mine, other = (read_result(folder)["training"]["history"] for folder in (ours, theirs))
    assert losses(mine) == pytest.approx(losses(other), rel=1e-4)
    for one, two in zip(read_predictions(ours), read_predictions(theirs), strict=True):
        assert one["prediction"] == two["prediction"]
        assert (one["scores"] or []) == pytest.approx(two["scores"] or [], rel=1e-3)
    tensors = saved(ours), saved(theirs)
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        other_tensor = tensors[1][name]
        assert tensor.shape == other_tensor.shape
        assert (tensor - other_tensor).abs().max() <= 2e-3 * other_tensor.abs().max(), name


def together(command: list[str], processes: int = 2) -> None:
    """Run a recipe over processes that share out its base model, to its end."""
    done = run_together(command, processes, **FSDP)
    assert done.returncode == 0, done.stderr
    assert error_lines(done.stderr) == []


def compare(folder: Path, command: Any) -> None:
    """Run a command in one process and in two, and compare their output; `command` gets the output folder."""
    alone = run_recipe(command(folder / "one"))
    assert alone.returncode == 0, alone.stderr
    together(command(folder / "two"))
    assert_alike(folder / "two", folder / "one")
    assert read_result(folder / "two")["environment"]["processes"] == 2


@pytest.mark.parametrize(
    "method", ["zero prefix", "P-tuning MLP", "multitask", "lora", "context", "ia3", "CPT", "full"]
)
def test_a_sharded_run_gives_what_one_process_gives(
    method: str, tiny_model: Path, domain_task: Path, tmp_path: Path
) -> None:
    flags = SURE.get(method, {})
    compare(tmp_path, lambda folder: method_command(method, tiny_model, domain_task, folder, **flags))


@pytest.mark.parametrize("engine", ["packed", "stock"])
@pytest.mark.parametrize("recipe", ["prompt_tuning", "multitask_prompt_tuning"])
def test_answers_of_different_lengths_and_micro_batches(
    recipe: str, engine: str, tiny_model: Path, domain_task: Path, tmp_path: Path
) -> None:
    flags = OPEN | PROMPT | SMALL | {"model.engine": engine, "evaluation.max_new_tokens": 12, "task.target": " {label}"}
    flags |= {"training.ema": 0.5, "evaluation.batch_size": 3}
    compare(tmp_path, lambda folder: short_command(recipe, tiny_model, domain_task, folder, **flags))


def test_gradient_checkpointing(tiny_model: Path, domain_task: Path, tmp_path: Path) -> None:
    flags = {"model.gradient_checkpointing": "true", "lora.lora_dropout": 0}
    compare(tmp_path, lambda folder: method_command("lora", tiny_model, domain_task, folder, **flags))


def test_distillation(tiny_model: Path, domain_task: Path, tmp_path: Path) -> None:
    flags = PROMPT | SMALL | {"training.teacher_context": "shots:2", "model.dtype": "float32"}
    compare(tmp_path, lambda folder: short_command("prompt_tuning", tiny_model, domain_task, folder, **flags))


@pytest.mark.parametrize("kind", ["tiny_t5", "tiny_encoder"])
def test_other_kinds_of_model(kind: str, domain_task: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    if kind == "tiny_encoder":
        compare(tmp_path, lambda folder: method_command("zero prefix", model, domain_task, folder))
    else:
        compare(tmp_path, lambda folder: short_command("prompt_tuning", model, domain_task, folder, **PROMPT))


@pytest.mark.parametrize(("method", "before", "after"), [("full", 2, 1), ("full", 1, 2), ("lora", 2, 4)])
def test_another_number_of_processes_resumes(
    method: str, before: int, after: int, tiny_model: Path, domain_task: Path, tmp_path: Path
) -> None:
    def run(folder: Path, processes: int, *more: str, **flags: Any) -> Any:
        command = method_command(method, tiny_model, domain_task, folder, *more, **(SURE.get(method, {}) | flags))
        return run_together(command, processes, **FSDP) if processes > 1 else run_recipe(command)

    assert run(tmp_path / "whole", 1).returncode == 0
    cut = method_command(method, tiny_model, domain_task, tmp_path / "cut", **SURE.get(method, {}))
    stopper = ["tests/support/stopped.py", "5", *cut]
    stopped = run_together(stopper, before, **FSDP) if before > 1 else run_recipe(stopper)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert (tmp_path / "cut" / "checkpoints" / "step-000005").is_dir()
    resumed = run(tmp_path / "cut", after, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming at step 5 of 8" in resumed.stdout
    assert_alike(tmp_path / "cut", tmp_path / "whole")


def test_recipes_that_do_not_train(tiny_model: Path, tiny_task: Path, tmp_path: Path, voters: dict[str, Path]) -> None:
    def command(recipe: str, folder: Path, **flags: Any) -> list[str]:
        return recipe_command(recipe, "sentiment", tiny_flags(tiny_model, tiny_task, folder) | flags)

    tried: dict[str, dict[str, Any]] = {
        "hard_prompt": {"hard.wordings": '["{text} sentiment", "{text} is"]'},
        "evaluate": {"adapter.path": voters["lora"], "task.prompt": "{text} sentiment", "task.target": " {label}"},
        "ensemble": {"ensemble.adapters": f"[{voters['one']}, {voters['three']}]"},
    }
    for recipe, flags in tried.items():
        one, two = tmp_path / recipe / "one", tmp_path / recipe / "two"
        alone = run_recipe(command(recipe, one, **flags))
        assert alone.returncode == 0, alone.stderr
        together(command(recipe, two, **flags))
        for ours, theirs in zip(read_predictions(two), read_predictions(one), strict=True):
            assert ours["prediction"] == theirs["prediction"]


def test_quantised_weights_are_refused(wider_model: Path, domain_task: Path, tmp_path: Path) -> None:
    command = short_command(
        "prompt_tuning", wider_model, domain_task, tmp_path, **(PROMPT | {"model.quantization": "nf4"})
    )
    done = run_together(command, **FSDP)
    assert done.returncode == 2
    assert "error: model.quantization: nf4 cannot be shared out with FSDP: bitsandbytes" in done.stderr


def test_the_launch_file_as_its_head_says(tiny_model: Path, domain_task: Path, tmp_path: Path) -> None:
    launch = ["-m", "accelerate.commands.launch", "--quiet", "--config_file", "configs/accelerate/fsdp2.yaml"]
    command = short_command("prompt_tuning", tiny_model, domain_task, tmp_path / "run", **PROMPT)
    done = run_recipe_cold([*launch, *command])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"written to {tmp_path / 'run'}") == 1
