"""The mean of prompts is one prompt: by hand, scored on the same rows, and saved as stock PEFT loads it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import cli_in_process, load_base, make_task, read_result, recipe_command, tiny_flags
from method_runs import read_predictions, stock_scores
from softprompts.config.sections import EvaluationConfig, TaskConfig
from softprompts.config.tools import EnsembleConfig
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.evaluation.ensemble import (
    CHOSEN,
    SOUP,
    VOTE,
    behind_each,
    load_members,
    members,
    outcome_of_vote,
    summary_of_members,
)
from softprompts.evaluation.predict import evaluate_test, predict
from softprompts.evaluation.soup import Soup, make_soup, mean_of
from softprompts.models.peft_compat import encoder_of

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TASK = TaskConfig("{text}", " {label}", choices=[" positive", " negative"])
EVALUATION = EvaluationConfig(batch_size=6, bootstrap_resamples=50)
ROWS = [("the film was good", " positive"), ("a very dull plot", " negative"), ("fine", " positive")]
CHOICES = (" positive", " negative")


def bank_of(voters: dict[str, Path], model: Path, *names: str) -> tuple[list[PeftModel], Any]:
    base, tokenizer = load_base(model)
    config = EnsembleConfig([str(voters[name]) for name in names])
    return load_members(base, members(config), config), tokenizer


@pytest.mark.parametrize("names", [("one", "three"), ("prefix one", "prefix two")])
def test_the_soup_is_the_mean_of_the_saved_values(
    voters: dict[str, Path], tiny_model: Path, names: tuple[str, ...]
) -> None:
    bank, _ = bank_of(voters, tiny_model, *names)
    soup = mean_of(bank)
    assert soup
    saved = [load_file(voters[name] / "adapter_model.safetensors")["prompt_embeddings"].double() for name in names]
    found = encoder_of(soup).embedding.weight
    torch.testing.assert_close(found.double(), (saved[0] + saved[1]) / 2, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(saved[0], saved[1])
    assert not found.requires_grad


def test_prompts_of_other_lengths_have_no_mean(
    voters: dict[str, Path], tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bank, _ = bank_of(voters, tiny_model, "one", "two")
    with caplog.at_level(logging.INFO):
        assert mean_of(bank) is None
    assert "the mean of the prompts is not scored: their lengths are 4, 7 virtual tokens" in caplog.messages


@pytest.mark.parametrize("packed", [False, True])
def test_the_soup_is_an_outcome_beside_the_others_which_stay(
    voters: dict[str, Path], tiny_model: Path, packed: bool
) -> None:
    names = ("one", "three")
    bank, tokenizer = bank_of(voters, tiny_model, *names)
    engine = Engine(bank[0], tokenizer, packed, bank[1:])
    data = encode(replace(make_task(ROWS), choices=CHOICES), tokenizer)
    soup = make_soup(engine, data, EVALUATION, Accelerator())
    assert isinstance(soup, Soup)
    mean = mean_of(bank)
    expected = predict(Engine(mean, tokenizer), data.test, EVALUATION, Accelerator(), "")
    for ours, theirs in zip(soup.outcome.predictions, expected.predictions, strict=True):
        assert ours.scores == pytest.approx(theirs.scores, rel=1e-4)
    copies = behind_each(data, 2)
    validation = predict(engine, copies.validation, EVALUATION, Accelerator(), "")
    outcome = evaluate_test(engine, copies, EVALUATION, Accelerator())
    config = EnsembleConfig(list(names))
    before, without = outcome_of_vote(outcome, validation, copies, config, EVALUATION)
    after, notes = outcome_of_vote(outcome, validation, copies, config, EVALUATION, soup)
    found = notes.pop("soup")
    assert (after, notes) == (before, without)
    right = [p.prediction == p.target for p in expected.predictions]
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(sum(right) / 3)
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-4)
    assert [(c["first"], c["second"]) for c in found["comparisons"]] == [(SOUP, VOTE), (SOUP, CHOSEN)]
    said = summary_of_members(notes | {"soup": found}).splitlines()
    assert said[3].startswith(f"soup, the mean of their values as one prompt: accuracy {sum(right) / 3:.4f} ")
    assert said[-1] == "their vote:"
    assert sum("the soup" in line for line in said) == 2


def test_the_recipe_saves_it_as_a_stock_adapter(
    voters: dict[str, Path], tiny_model: Path, tiny_task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adapters = json.dumps([str(voters[name]) for name in ("one", "three")])
    flags = tiny_flags(tiny_model, tiny_task, tmp_path / "run") | {"task.prompt": "{text} sentiment"}
    command = recipe_command("ensemble", "sentiment", flags | {"ensemble.adapters": adapters})
    code, said, errors = cli_in_process(command, capfd)
    assert (code, errors) == (0, [])
    accuracy = read_result(tmp_path / "run")["notes"]["soup"]["metrics"]["accuracy"]["value"]
    assert f"soup, the mean of their values as one prompt: accuracy {accuracy:.4f} " in said
    card = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert all(str(voters[name]) in card for name in ("one", "three"))
    stock = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model).eval(), str(tmp_path / "run" / "adapter")
    ).eval()
    _, tokenizer = load_base(tiny_model)
    right = 0
    for row in read_predictions(tmp_path / "run"):
        scores = stock_scores(stock, tokenizer, row["prompt"])
        right += CHOICES[scores.index(max(scores))] == row["target"]
    assert accuracy == right / 16
