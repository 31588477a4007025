"""The recipe of each method end to end: its output, its trained parameters, stop and resume."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import cli_in_process, load_base, losses, main_in_process, read_result
from method_runs import (
    CHOICES,
    DOMAINS,
    FACTOR_STEPS,
    METHODS,
    OPEN,
    PROCESSES,
    STEPS,
    TOKENS,
    method_command,
    read_predictions,
    stock_answer,
    stock_model,
    stock_scores,
)
from softprompts.training import loop as training

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.slow

FILES = {"checkpoints", "config.json", "curves.png", "predictions.jsonl", "README.md", "result.json"}
WIDTH, LAYERS = 32, 2
# Saved scalars: virtual tokens; a prefix has keys and values of two groups of eight at each layer.
PROMPT, PREFIX = TOKENS * WIDTH, TOKENS * LAYERS * 2 * 16
SAVED = {"P-tuning LSTM": PROMPT, "P-tuning MLP": PROMPT, "multitask": 2 * PROMPT} | {
    m: PREFIX for m in METHODS if "prefix" in m
}
MethodRun = Callable[[str], Path]


def steps_of(method: str) -> int:
    return STEPS + (FACTOR_STEPS if method == "multitask" else 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_all_that_it_promises(method_run: MethodRun, tiny_model: Path, method: str) -> None:
    folder = method_run(method)
    what = "model" if method == "full" else "adapter"
    assert {p.name for p in folder.iterdir()} == FILES | {what}
    weights = list((folder / what).rglob("*.safetensors"))
    if method == "multitask":
        assert sorted(p.parent.name for p in weights) == DOMAINS
    else:
        assert [p.parent for p in weights] == [folder / what]
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    result = read_result(folder)
    assert result["recipe"] == METHODS[method][0]
    cost, count = result["cost"], result["parameters"]
    assert cost["training_tokens_per_second"] > 0
    assert cost["peak_memory_gib"] > 0
    assert cost["adapter_bytes"] == sum(p.stat().st_size for p in weights)
    # So a prompt of 20 x 576 has less than 100 kB: float32, and little more.
    assert cost["adapter_bytes"] <= 4 * count["saved"] + 4096 * len(weights)
    if method in SAVED:
        assert count["saved"] == SAVED[method]
    elif method == "full":
        assert count["saved"] == count["trainable"] == count["total"] == load_base(tiny_model)[0].num_parameters()
    else:
        assert count["saved"] == count["trainable"] < count["total"]
    assert result["training"]["step"] == len(losses(result["training"]["history"])) == steps_of(method)
    assert result["training"]["best_step"] > 0
    assert result["metrics"]["accuracy"]["rows"] == len(read_predictions(folder)) == 16
    card = (folder / "README.md").read_text(encoding="utf-8")
    for task in DOMAINS if method == "multitask" else [""]:
        assert f"from_pretrained({'base, ' * (what == 'adapter')}'{what}{'/' * bool(task)}{task}')" in card


def test_multitask_records_each_task(method_run: MethodRun) -> None:
    result = read_result(method_run("multitask"))
    tasks = result["notes"]["tasks"]
    assert list(tasks) == DOMAINS
    assert [task["rows"] for task in tasks.values()] == [8, 8]
    mean = sum(task["accuracy"] for task in tasks.values()) / 2
    assert mean == pytest.approx(result["metrics"]["accuracy"]["value"])


@pytest.mark.parametrize("method", METHODS)
def test_stock_peft_gives_the_recorded_scores(method_run: MethodRun, tiny_model: Path, method: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    away = 0.0
    for record in read_predictions(method_run(method))[:6]:
        scores = stock_scores(stock_model(method_run(method), tiny_model, record), tokenizer, record["prompt"])
        assert scores == pytest.approx(record["scores"], abs=1e-3)
        assert record["prediction"] == CHOICES[scores[1] > scores[0]]
        plain = stock_scores(base, tokenizer, record["prompt"])
        away = max(away, *(abs(a - b) for a, b in zip(plain, scores, strict=True)))
    assert away > 0.05, "an adapter that changes nothing would pass, too"


@dataclass
class Watched:
    """Copies of a model's parameters before and after each call of `train`, and the names of trainable ones."""

    before: list[dict[str, torch.Tensor]] = field(default_factory=list)
    after: list[dict[str, torch.Tensor]] = field(default_factory=list)
    trainable: list[set[str]] = field(default_factory=list)

    @staticmethod
    def copy(model: Any) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in model.named_parameters()}


@dataclass(frozen=True)
class Resumed:
    """A run that was stopped and resumed: its folder, its files at the stop, and both halves."""

    method: str
    folder: Path
    stopped: set[str]
    checkpoint: dict[str, torch.Tensor]
    first: Watched
    second: Watched


# The tests of a method go to one worker: they share its run.
@pytest.fixture(
    scope="module", params=[pytest.param(method, marks=pytest.mark.xdist_group(method)) for method in PROCESSES]
)
def resumed(
    request: pytest.FixtureRequest, tiny_model: Path, domain_task: Path, tmp_path_factory: pytest.TempPathFactory
) -> Resumed:
    """A run of each method that SIGTERM has stopped two updates before its end, resumed in another call."""
    method = request.param
    folder = tmp_path_factory.mktemp("resumed") / "run"
    command = method_command(method, tiny_model, domain_task, folder)
    original, original_update = training.train, training.update
    watched = [Watched(), Watched()]
    updates = 0

    def counted(*arguments: Any) -> Any:
        nonlocal updates
        updates += 1
        if updates == steps_of(method) - 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original_update(*arguments)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the process has that it is compared with
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "update", counted)
        for half in watched:

            def watching(engine: Any, *arguments: Any, half: Watched = half, **more: Any) -> Any:
                half.before.append(Watched.copy(engine.model))
                half.trainable.append({name for name, p in engine.model.named_parameters() if p.requires_grad})
                progress = original(engine, *arguments, **more)
                half.after.append(Watched.copy(engine.model))
                return progress

            patch.setattr("softprompts.train", watching)
            if half is watched[0]:
                assert main_in_process(command) == 128 + signal.SIGTERM
                stopped = {p.name for p in folder.iterdir()}
                newest = max((folder / "checkpoints").rglob("step-*"), key=lambda p: (len(p.parts), p.name))
                checkpoint = load_file(newest / "trainable.safetensors")
            else:
                assert main_in_process([*command, "--resume"]) == 0
    torch.set_num_threads(threads)
    assert updates == steps_of(method), "each update was made once"
    return Resumed(method, folder, stopped, checkpoint, *watched)


def test_a_resumed_run_equals_an_uninterrupted_one(resumed: Resumed, method_run: MethodRun) -> None:
    folder, reference = resumed.folder, method_run(resumed.method)
    assert resumed.stopped == {"checkpoints", "config.json"}, "nothing is exported before the end"
    weights = list((reference / ("model" if resumed.method == "full" else "adapter")).rglob("*.safetensors"))
    assert weights
    for file in (p.relative_to(reference) for p in weights):
        assert (folder / file).read_bytes() == (reference / file).read_bytes(), file
    assert (folder / "predictions.jsonl").read_bytes() == (reference / "predictions.jsonl").read_bytes()
    ours, theirs = (read_result(f) for f in (folder, reference))
    for key in ("history", "best_step", "best_value", "step", "tokens"):
        assert ours["training"][key] == theirs["training"][key], key
    assert ours["metrics"] == theirs["metrics"]
    assert ours["test_loss"] == theirs["test_loss"]


def test_training_goes_on_from_what_trains_not_from_what_is_exported(resumed: Resumed, method_run: MethodRun) -> None:
    assert resumed.checkpoint.keys() == resumed.first.trainable[-1]
    if resumed.method == "P-tuning LSTM":
        assert any("lstm_head" in name for name in resumed.checkpoint)
        exported = load_file(method_run(resumed.method) / "adapter/adapter_model.safetensors")
        assert exported.keys() == {"prompt_embeddings"}


def test_what_should_move_moves_and_nothing_else(resumed: Resumed, tiny_model: Path) -> None:
    before, after = resumed.first.before[0], resumed.second.after[-1]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set.union(*resumed.first.trainable)
    if resumed.method == "full":
        assert moved == before.keys()
        return
    assert all("lora_" in name or "ia3_" in name or name.startswith("prompt_encoder.") for name in moved)
    base = dict(load_base(tiny_model)[0].named_parameters())
    frozen = {}
    for name in before.keys() - moved:
        if name.startswith("prompt_encoder."):  # the initial values of CPT
            continue
        short = name.removeprefix("base_model.").replace(".base_layer", "")
        frozen[short if short in base else short.removeprefix("model.")] = name  # LoRA has a wrapper more
    assert frozen.keys() == base.keys()
    assert all(torch.equal(base[short], after[name]) for short, name in frozen.items())


@pytest.mark.xdist_group("multitask")
@pytest.mark.parametrize("resumed", ["multitask"], indirect=True)
def test_the_second_stage_of_multitask_moves_the_factors_alone(resumed: Resumed) -> None:
    first, second = resumed.second.trainable
    (shared,) = first - second
    assert "embedding" in shared
    before, after = resumed.first.before[1], resumed.second.after[1]
    assert torch.equal(before[shared], after[shared])
    assert all(not torch.equal(before[name], after[name]) for name in second)


@pytest.mark.parametrize(
    "method", ["prefix", "projected prefix", "P-tuning MLP", "multitask", "context", "CPT", "lora", "ia3", "full"]
)
def test_written_answers_are_those_of_stock_generation_and_not_the_base_models(
    tiny_model: Path, domain_task: Path, method: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    flags = OPEN | {"training.steps": 4, "training.batch_size": 16}
    assert main_in_process(method_command(method, tiny_model, domain_task, folder, **flags)) == 0
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    records = read_predictions(folder)[:4]
    for record in records:
        model = stock_model(folder, tiny_model, record)
        assert record["prediction"] == stock_answer(model, tokenizer, record["prompt"])
    assert [r["prediction"] for r in records] != [stock_answer(base, tokenizer, r["prompt"]) for r in records]
    assert read_result(folder)["metrics"]["exact_match"]["rows"] == 16


def test_qlora_trains_beside_a_base_of_four_bits(
    wider_model: Path, domain_task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = {"model.quantization": "nf4", "training.steps": 2, "training.eval_every": 2}
    command = method_command("lora", wider_model, domain_task, tmp_path / "run", **flags)
    code, said, errors = cli_in_process(command, capfd)
    assert code == 0, errors
    assert "warning" not in said
    saved = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert all(tensor.any() for tensor in saved.values()), "the matrices B begin at zero"
