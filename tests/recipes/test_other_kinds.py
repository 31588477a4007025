"""Recipes on encoder-decoders and encoders: their adapters give the recorded answers in stock PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import main_in_process, read_result
from method_runs import ENCODER, LENGTH, OPEN, PREFIX, TOKENS, read_predictions, short_command, stock_model

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

pytestmark = pytest.mark.slow

ANSWERS = ["positive", "negative"]  # in a separate decoder, or as a class, an answer has no space before it
T5_METHODS: dict[str, dict[str, Any]] = {
    "prompt_tuning": LENGTH,
    "p_tuning": ENCODER,
    "lora": {"lora.r": 4},
    "ia3": {"training.learning_rate": 0.05},
    "full_finetuning": {"training.learning_rate": 0.005},
}
ENCODER_METHODS: dict[str, dict[str, Any]] = {
    "prefix_tuning": PREFIX | {"prefix.init_weights": "zero"},
    "lora": {"lora.r": 4, "training.learning_rate": 0.003},
    "ia3": {"training.learning_rate": 0.01},
    "full_finetuning": {"training.learning_rate": 0.005},
}


def run(recipe: str, model: Path, task: Path, folder: Path, **flags: Any) -> list[dict[str, Any]]:
    """Run a recipe to its end and return its answers to the test rows."""
    assert main_in_process(short_command(recipe, model, task, folder, **flags)) == 0
    training = read_result(folder)["training"]
    assert training["best_step"] > 0, "the starting values are saved: nothing would be shown"
    return read_predictions(folder)


def written_scores(model: Any, tokenizer: Any, prompt: str) -> list[float]:
    """Return the log-likelihood of each answer in the decoder of an encoder-decoder."""
    scores = []
    read = tokenizer(prompt, return_tensors="pt")
    for answer in ANSWERS:
        ids = tokenizer(answer, add_special_tokens=False).input_ids
        begun = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
        with torch.inference_mode():
            output = model(input_ids=read.input_ids, attention_mask=read.attention_mask, decoder_input_ids=begun)
        likelihoods = output.logits[0].log_softmax(-1)
        scores.append(sum(likelihoods[place, token].item() for place, token in enumerate(ids)))
    return scores


@pytest.mark.parametrize("recipe", T5_METHODS)
def test_an_encoder_decoder_scores_choices(tiny_t5: Path, tiny_task: Path, recipe: str, tmp_path: Path) -> None:
    records = run(recipe, tiny_t5, tiny_task, tmp_path / "run", **T5_METHODS[recipe])
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    model = stock_model(tmp_path / "run", tiny_t5, records[0], AutoModelForSeq2SeqLM)
    base = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval()
    away = 0.0
    for record in records[:6]:
        scores = written_scores(model, tokenizer, record["prompt"])
        assert scores == pytest.approx(record["scores"], abs=1e-3)
        assert record["prediction"].strip() == ANSWERS[scores[1] > scores[0]]
        plain = written_scores(base, tokenizer, record["prompt"])
        away = max(away, *(abs(a - b) for a, b in zip(plain, scores, strict=True)))
    assert away > 0.02
    if recipe in ("prompt_tuning", "p_tuning"):
        assert read_result(tmp_path / "run")["parameters"]["saved"] == TOKENS * 32, "of the encoder alone"


@pytest.mark.parametrize("recipe", T5_METHODS)
def test_an_encoder_decoder_writes_answers(tiny_t5: Path, tiny_task: Path, recipe: str, tmp_path: Path) -> None:
    flags = T5_METHODS[recipe] | OPEN | {"training.learning_rate": 0.5 if recipe == "prompt_tuning" else 0.05}
    records = run(recipe, tiny_t5, tiny_task, tmp_path / "run", **flags)[:5]
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5)
    said = []
    for model in (
        stock_model(tmp_path / "run", tiny_t5, records[0], AutoModelForSeq2SeqLM),
        AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval(),
    ):
        answers = []
        for record in records:
            read = tokenizer(record["prompt"], return_tensors="pt")
            with torch.inference_mode():
                written = model.generate(
                    input_ids=read.input_ids, attention_mask=read.attention_mask, max_new_tokens=5, do_sample=False
                )
            answers.append(tokenizer.decode(written[0], skip_special_tokens=True))
        said.append(answers)
    assert [r["prediction"] for r in records] == said[0]
    assert said[0] != said[1], "the adapter is heard"


def class_scores(model: Any, tokenizer: Any, prompt: str) -> list[float]:
    """Return the log-likelihood of each class that an encoder tells apart."""
    read = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        logits = model(input_ids=read.input_ids, attention_mask=read.attention_mask).logits
    return logits[0].log_softmax(-1).tolist()


@pytest.mark.parametrize("recipe", ENCODER_METHODS)
def test_an_encoder_is_trained_with_its_classifier(
    tiny_encoder: Path, tiny_task: Path, recipe: str, tmp_path: Path
) -> None:
    check_encoder(recipe, tiny_encoder, tiny_task, tmp_path / "run")


@pytest.mark.bundled
def test_a_real_encoder_takes_a_prefix(minilm: Path, tiny_task: Path, tmp_path: Path) -> None:
    flags = {"training.learning_rate": 0.005, "training.steps": 24}
    check_encoder("prefix_tuning", minilm, tiny_task, tmp_path / "run", **flags)


def check_encoder(recipe: str, base: Path, task: Path, folder: Path, **flags: Any) -> None:
    """Run a recipe on an encoder, see its classifier saved, and its answers given by stock PEFT."""
    records = run(recipe, base, task, folder, **(ENCODER_METHODS[recipe] | flags))
    whole = recipe == "full_finetuning"
    file = "model/model.safetensors" if whole else "adapter/adapter_model.safetensors"
    saved = load_file(folder / file)
    assert any("classifier" in name for name in saved)
    tokenizer = AutoTokenizer.from_pretrained(base)
    more = {} if whole else {"num_labels": 2}
    model = stock_model(folder, base, records[0], AutoModelForSequenceClassification, **more)
    for record in records:
        scores = class_scores(model, tokenizer, record["prompt"])
        assert scores == pytest.approx(record["scores"], abs=1e-3)
        assert record["prediction"].strip() == ANSWERS[scores[1] > scores[0]]
    if whole:
        assert model.config.id2label == dict(enumerate(ANSWERS))
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "AutoModelForSequenceClassification.from_pretrained('model')" in card
    if recipe == "prefix_tuning":
        # It started at zero: a value that is not zero has received a gradient, and the output depends on it.
        assert saved["prompt_embeddings"].any()
        with torch.no_grad():
            model.prompt_encoder[model.active_adapter].embedding.weight.zero_()
        without = [class_scores(model, tokenizer, record["prompt"]) for record in records]
        away = [abs(r["scores"][0] - plain[0]) for r, plain in zip(records, without, strict=True)]
        assert max(away) > 1e-3
