"""A cartridge end to end: the shipped config on a tiny model, its loss by hand, and its results in stock PEFT."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import ROOT, load_base, load_recipe, losses, main_in_process, read_result
from method_runs import read_predictions, stock_answer, stock_model
from softprompts.config.cli import parse
from softprompts.encoding.documents import Example
from softprompts.encoding.tokenization import encode
from softprompts.tasks.task import load_task

import pytest
import torch
from peft import prompt_embeddings_from_past_key_values
from safetensors.torch import load_file

TEXT = ROOT / "configs/home_commands/cartridge.txt"
TOKENS, ROWS = 16, 8


def test_its_text_has_a_solved_row_of_train_for_each_intent() -> None:
    folder = ROOT / "data/home_commands"
    train = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    known = {(row["text"], row["command"]) for row in train if row["language"] == "en"}
    shown = re.findall(r"^(.+)\nCommand: (.+)$", TEXT.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(shown) <= known
    intents = json.loads((folder / "schema.json").read_text(encoding="utf-8"))["properties"]["intent"]["enum"]
    assert Counter(json.loads(command)["intent"] for _, command in shown) == Counter(intents)


@dataclass(frozen=True)
class Finished:
    """A run of the shipped config on a small model: its folder, the curve of its loss, its rows, and the text."""

    folder: Path
    curve: list[float]
    rows: Sequence[Example]
    text: str


def run(model: Path, folder: Path, **changes: Any) -> Finished:
    """Run the shipped config with a part of its text: each update has all rows of train."""
    file = folder / "text.txt"
    file.write_text(TEXT.read_text(encoding="utf-8")[:400], encoding="utf-8")
    flags = {
        "model.name_or_path": model,
        "model.dtype": "float32",
        "task.max_rows": f"{{train: {ROWS}, validation: 4, test: 4}}",
        "prefix.num_virtual_tokens": TOKENS,
        "prefix.init_text": file,
        "training.teacher_context": file,
        "training.warmup_steps": 0,
        "training.learning_rate": 0.05,
        "training.batch_size": ROWS,
        "evaluation.max_new_tokens": 5,
        "evaluation.bootstrap_resamples": 10,
        "run.output_dir": folder / "run",
    } | {f"training.{key}": value for key, value in changes.items()}
    pairs = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    command = ["recipes/prefix_tuning.py", "--config", str(ROOT / "configs/home_commands/cartridge.yaml"), *pairs]
    assert main_in_process(command) == 0
    task = parse(load_recipe("prefix_tuning").main, command[1:])["task"]
    return Finished(
        folder / "run",
        losses(read_result(folder / "run")["training"]["history"]),
        encode(load_task(task), load_base(model)[1]).train,
        file.read_text(encoding="utf-8").strip(),
    )


def by_hand(model: Path, done: Finished, weight: float) -> float:
    """Return the mean loss of target tokens before the first update, with this weight of the divergence.

    The student is the base model after the text's first tokens, the teacher the base model after all of the text. The
    last token ends the answer, and has the negative log-likelihood alone.
    """
    base, tokenizer = load_base(model)
    head = tokenizer(done.text, add_special_tokens=False).input_ids[:TOKENS]

    def read(prompt: list[int], target: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            logits = base(torch.tensor([[*prompt, *target[:-1]]])).logits[0, -len(target) :]
        return logits.double().log_softmax(-1)

    total, tokens = 0.0, 0
    for example in done.rows:
        target = example.document.target_ids
        taught = read(tokenizer(f"{done.text}\n\n{example.row.prompt}").input_ids, target)
        own = read([*head, *example.document.prompt_ids], target)
        divergence = (taught.exp() * (taught - own)).sum(-1)
        likelihood = -own[range(len(target)), list(target)]
        each = weight * divergence + (1 - weight) * likelihood
        total += float(each[:-1].sum() + likelihood[-1])
        tokens += len(target)
    return total / tokens


@pytest.mark.slow
def test_it_learns_what_the_base_model_says_with_all_of_the_text_and_to_end(wider_model: Path, tmp_path: Path) -> None:
    done = run(wider_model, tmp_path, steps=4, eval_every=4)
    assert done.curve[0] == pytest.approx(by_hand(wider_model, done, 1.0), rel=1e-4)
    assert done.curve == sorted(done.curve, reverse=True)
    assert done.curve[-1] < 0.95 * done.curve[0]


@pytest.mark.slow
def test_its_first_token_stays_and_stock_peft_gives_its_answers(wider_model: Path, tmp_path: Path) -> None:
    """In addition to the targets, which choose the checkpoint: a random teacher's answers do not depend on them."""
    done = run(wider_model, tmp_path, steps=4, eval_every=4, teacher_weight=0.25)
    assert done.curve[0] == pytest.approx(by_hand(wider_model, done, 0.25), rel=1e-4)
    base, tokenizer = load_base(wider_model)
    ids = tokenizer(done.text, add_special_tokens=False).input_ids
    assert len(ids) > 4 * TOKENS, "the text is longer than the prefix"
    with torch.no_grad():
        cache = base(torch.tensor([ids[:TOKENS]]), use_cache=True).past_key_values
    begun = prompt_embeddings_from_past_key_values(cache, num_virtual_tokens=TOKENS)
    (saved,) = load_file(done.folder / "adapter/adapter_model.safetensors").values()
    torch.testing.assert_close(saved[0], begun[0])
    assert ((saved - begun)[1:].abs().amax(dim=1) > 1e-3).all(), "all others move"
    for record in read_predictions(done.folder):
        model = stock_model(done.folder, wider_model, record)
        assert record["prediction"] == stock_answer(model, tokenizer, record["prompt"])
