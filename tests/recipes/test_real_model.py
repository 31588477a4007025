"""The recipe on the bundled SmolLM2-135M and the embedded sentiment task: three steps, for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import CPU, losses, read_result, recipe_command, run_recipe
from softprompts.encoding.documents import Document
from softprompts.engine.forward import Engine
from softprompts.models.bundled import resolve

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.bundled, pytest.mark.xdist_group("real model")]  # they share a run
CHOICES = [" positive", " negative"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three steps of the shipped config, on few rows."""
    folder = tmp_path_factory.mktemp("real") / "run"
    flags = {
        "model.name_or_path": "bundled:smollm2-135m-instruct",
        "model.dtype": "float32",
        "model.engine": "packed",  # an error if its result differs from PEFT's
        "task.max_rows": "{train: 64, validation: 8, test: 8}",
        "training.steps": 3,
        "training.eval_every": 3,
        "training.batch_size": 8,
        "training.warmup_steps": 0,
        "evaluation.bootstrap_resamples": 20,
        "run.trackers": "[]",
        "run.output_dir": folder,
    }
    done = run_recipe(recipe_command("prompt_tuning", "sentiment", flags))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def tuned(run: Path) -> tuple[PeftModel, Any]:
    """The adapter of `run`, loaded by stock transformers and PEFT, and the tokenizer."""
    folder = resolve("bundled:smollm2-135m-instruct")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return PeftModel.from_pretrained(base, str(run / "adapter")), AutoTokenizer.from_pretrained(folder)


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_three_steps(run: Path) -> None:
    result = read_result(run)
    curve = losses(result["training"]["history"])
    assert len(curve) == 3
    assert all(0 < loss < 20 for loss in curve)
    assert len(records(run)) == 8
    assert "apache-2.0" in (run / "README.md").read_text(encoding="utf-8").lower()


def test_stock_peft_gives_the_recorded_predictions(run: Path, tuned: tuple[PeftModel, Any]) -> None:
    model, tokenizer = tuned
    ids = [tokenizer(choice, add_special_tokens=False).input_ids for choice in CHOICES]
    assert [len(i) for i in ids] == [1, 1]
    for record in records(run):
        text = tokenizer(record["prompt"], return_tensors="pt")
        with torch.inference_mode():
            last = model(**text).logits[0, -1].log_softmax(-1)
        scores = [last[i[0]].item() for i in ids]
        assert scores == pytest.approx(record["scores"], abs=1e-3)
        assert record["prediction"] == CHOICES[scores[1] > scores[0]]


def test_packed_equals_stock(run: Path, tuned: tuple[PeftModel, Any]) -> None:
    model, tokenizer = tuned
    documents = [
        Document(tuple(tokenizer(r["prompt"]).input_ids), tuple(tokenizer(r["target"]).input_ids)) for r in records(run)
    ]
    prompt = next(model.prompt_encoder.parameters()).requires_grad_(True)
    results = []
    for packed in (True, False):
        scores = Engine(model, tokenizer, packed)(documents)
        (gradient,) = torch.autograd.grad(scores.nll().mean(), prompt)
        results.append((scores.logits.detach(), gradient))
    (packed_logits, packed_gradient), (logits, gradient) = results
    torch.testing.assert_close(packed_logits, logits, rtol=1e-3, atol=1e-3)
    assert (packed_gradient - gradient).norm() < 1e-3 * gradient.norm()
    assert Engine(model, tokenizer).device == CPU
