"""`recipes/evaluate.py` end to end: adapters of our runs and of PEFT itself, scored again; and invalid adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import ROOT, cli_in_process, main_in_process, read_result, recipe_command, tiny_flags
from method_runs import DOMAINS, LENGTH, domain_of, read_predictions, saved_by_peft, short_command, stock_scores

import pytest
import torch
from peft import (
    MultitaskPromptTuningConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.slow

MethodRun = Callable[[str], Path]
Evaluate = Callable[..., Path]
Fail = Callable[..., str]


@pytest.fixture
def flags(tiny_model: Path, domain_task: Path, tmp_path: Path) -> dict[str, Any]:
    return tiny_flags(tiny_model, domain_task, tmp_path / "run") | {"task.prompt": "{text} sentiment"}


@pytest.fixture
def score(flags: dict[str, Any]) -> Evaluate:
    """Run the recipe with more flags, and return the folder of its record."""

    def run(**changes: Any) -> Path:
        settings = flags | changes
        assert main_in_process(recipe_command("evaluate", "sentiment", settings)) == 0
        return Path(settings["run.output_dir"])

    return run


@pytest.fixture
def fail(flags: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> Fail:
    """Run the recipe with an adapter that it refuses, and return its one line."""

    def run(adapter: Path | str, **changes: Any) -> str:
        settings = flags | {"adapter.path": adapter} | changes
        code, _, errors = cli_in_process(recipe_command("evaluate", "sentiment", settings), capfd)
        assert (code, len(errors)) == (2, 1), errors
        assert errors[0].startswith("error: adapter.")
        return errors[0].removeprefix("error: ")

    return run


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of prompt tuning that PEFT itself has saved."""
    folder = tmp_path_factory.mktemp("stock") / "adapter"
    saved_by_peft(tiny_model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5), folder)
    return folder


def changed(adapter: Path, folder: Path, **changes: Any) -> Path:
    """Return a copy of an adapter with other settings."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return folder


def assert_same_answers(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert (a["place"], a["prompt"], a["prediction"]) == (b["place"], b["prompt"], b["prediction"])
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-4)


@pytest.mark.parametrize(("method", "below"), [("prefix", ""), ("P-tuning LSTM", ""), ("lora", "adapter")])
def test_a_finished_run_scored_again_gives_its_record(
    method_run: MethodRun, score: Evaluate, method: str, below: str
) -> None:
    folder = score(**{"adapter.path": method_run(method) / below})
    assert {p.name for p in folder.iterdir()} == {"config.json", "predictions.jsonl", "README.md", "result.json"}
    ours, theirs = read_result(folder), read_result(method_run(method))
    assert ours["metrics"] == theirs["metrics"]
    assert ours["baselines"] == theirs["baselines"]
    assert ours["test_loss"] == pytest.approx(theirs["test_loss"], abs=1e-4)
    assert_same_answers(read_predictions(folder), read_predictions(method_run(method)))
    assert (ours["recipe"], ours["training"], ours["notes"]["split"]) == ("evaluate", {}, "test")
    assert ours["parameters"]["trainable"] == 0
    assert "there is no adapter" not in (folder / "README.md").read_text(encoding="utf-8")


def test_a_whole_model_is_scored_as_a_model(method_run: MethodRun, score: Evaluate) -> None:
    folder = score(**{"model.name_or_path": method_run("full") / "model"})
    assert read_result(folder)["metrics"] == read_result(method_run("full"))["metrics"]
    assert_same_answers(read_predictions(folder), read_predictions(method_run("full")))


@pytest.mark.parametrize(
    ("model", "recipe", "own"), [("tiny_t5", "prompt_tuning", LENGTH), ("tiny_encoder", "lora", {"lora.r": 4})]
)
def test_an_adapter_of_another_kind_of_model(
    request: pytest.FixtureRequest,
    score: Evaluate,
    domain_task: Path,
    model: str,
    recipe: str,
    own: dict[str, Any],
    tmp_path: Path,
) -> None:
    base = request.getfixturevalue(model)
    assert main_in_process(short_command(recipe, base, domain_task, tmp_path / "trained", **own)) == 0
    folder = score(**{"model.name_or_path": base, "adapter.path": tmp_path / "trained"})
    assert_same_answers(read_predictions(folder), read_predictions(tmp_path / "trained"))


def test_an_adapter_of_several_tasks_is_chosen_by_its_folder(
    method_run: MethodRun, score: Evaluate, fail: Fail
) -> None:
    run = method_run("multitask")
    message = fail(run)
    assert all(f"adapter/{domain}" in message for domain in DOMAINS)
    changes = {"adapter.path": run / "adapter/books", "task.where": "{domain: [books]}"}
    books = [r for r in read_predictions(run) if domain_of(r) == "books"]
    assert_same_answers(read_predictions(score(**changes)), books)


def test_the_validation_split_gives_what_validation_gave(method_run: MethodRun, score: Evaluate) -> None:
    folder = score(**{"adapter.path": method_run("lora"), "evaluation.split": "validation"})
    result, training = read_result(folder), read_result(method_run("lora"))["training"]
    (then,) = (e for e in training["history"] if e["step"] == training["best_step"] and "validation_loss" in e)
    assert result["notes"]["split"] == "validation"
    assert all("validation.jsonl" in record["place"] for record in read_predictions(folder))
    assert result["test_loss"] == pytest.approx(then["validation_loss"], abs=1e-4)
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(then["validation_accuracy"])


def test_without_an_adapter_the_base_model_is_scored(score: Evaluate, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    folder = score()
    for record in read_predictions(folder)[:5]:
        assert record["scores"] == pytest.approx(stock_scores(base, tokenizer, record["prompt"]), abs=1e-3)
    assert "there is no adapter" in (folder / "README.md").read_text(encoding="utf-8")


COMMON: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (PromptEncoderConfig(**COMMON, encoder_hidden_size=16), None),
        (PrefixTuningConfig(**COMMON), None),
        (MultitaskPromptTuningConfig(**COMMON, num_tasks=2, num_ranks=1), 0),
        (MultitaskPromptTuningConfig(**COMMON, num_tasks=2, num_ranks=1), 1),
    ],
    ids=["P-tuning", "prefix", "multitask 0", "multitask 1"],
)
def test_an_adapter_that_peft_saved_itself(
    score: Evaluate, tiny_model: Path, config: PeftConfig, task: int | None, tmp_path: Path
) -> None:
    # PEFT draws the factors of tasks next to zero: made larger, so that each task's prompt is another.
    stock = saved_by_peft(tiny_model, config, tmp_path / "saved", scale=1.0 if task is None else 8.0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    chosen: dict[str, Any] = {} if task is None else {"task_ids": torch.tensor([task])}
    folder = score(**{"adapter.path": tmp_path / "saved"} | ({} if task is None else {"adapter.task_id": task}))
    records = read_predictions(folder)[:4]
    for record in records:
        expected = stock_scores(stock, tokenizer, record["prompt"], **chosen)
        assert record["scores"] == pytest.approx(expected, abs=1e-3)
    if task is not None:
        others = [stock_scores(stock, tokenizer, r["prompt"], task_ids=torch.tensor([1 - task])) for r in records]
        assert max(abs(r["scores"][0] - o[0]) for r, o in zip(records, others, strict=True)) > 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_dim": 64}, "is for another base model: hidden size 64, but "),
        ({"num_layers": 3}, "is for another base model: layers 3, but "),
        ({"base_model_name_or_path": "someone/other-llama"}, "was trained on someone/other-llama, not on "),
    ],
)
def test_an_adapter_of_another_base_is_refused(
    fail: Fail, adapter: Path, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = changed(adapter, tmp_path / "changed", **changes)
    assert fail(folder).startswith(f"adapter.path: {folder} {message}")


def test_a_base_of_another_name_may_be_allowed(score: Evaluate, adapter: Path, tmp_path: Path) -> None:
    folder = changed(adapter, tmp_path / "changed", base_model_name_or_path="someone/other-llama")
    assert len(read_predictions(score(**{"adapter.path": folder, "adapter.any_base": "true"}))) == 16


def test_the_run_of_a_whole_model_says_where_the_model_is(method_run: MethodRun, fail: Fail) -> None:
    run = method_run("full")
    assert fail(run) == f"adapter.path: {run / 'model'} is a whole model; set model.name_or_path to it"


def test_what_is_no_adapter_is_refused(fail: Fail, adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert fail(tiny_model) == f"adapter.path: {tiny_model} is a whole model; set model.name_or_path to it"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fail(empty) == f"adapter.path: {empty} is not an adapter: it has no adapter_config.json"
    pickled = changed(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    assert fail(pickled).endswith("has no adapter_model.safetensors; pickled weights are not loaded")
    torn = changed(adapter, tmp_path / "torn")
    weights = torn / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    assert str(torn) in fail(torn)
    several = tmp_path / "several"
    changed(adapter, several / "task")
    assert fail(several).endswith("; adapters below it: task")


def test_a_task_that_an_adapter_lacks_is_refused(fail: Fail, tiny_model: Path, tmp_path: Path) -> None:
    saved_by_peft(tiny_model, MultitaskPromptTuningConfig(**COMMON, num_tasks=2), tmp_path / "saved")
    assert fail(tmp_path / "saved", **{"adapter.task_id": 2}) == "adapter.task_id: 2 is not between 0 and 1"


def test_a_misspelt_folder_gets_the_nearest_run(
    flags: dict[str, Any], adapter: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(adapter, tmp_path / "runs/tickets/lora/adapter")
    command = recipe_command("evaluate", "sentiment", flags | {"adapter.path": "runs/tickets/lra/adapter"})
    command = [str(ROOT / part) if part.startswith("configs/") else part for part in command]
    code, _, errors = cli_in_process(command, capfd, tmp_path)
    assert code == 2
    message = 'no such folder: runs/tickets/lra/adapter (did you mean "runs/tickets/lora/adapter"?)'
    assert errors == [f"error: adapter.path: {message}"]
