"""A cartridge end to end: the shipped config on a tiny model, its loss by hand, and what stock PEFT makes of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from helpers import ROOT, load_base, load_recipe, losses, main_in_process, read_result
from method_runs import read_predictions, stock_answer, stock_model
from softprompts.config.cli import parse
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


def loss_by_hand(base: Any, tokenizer: Any, head: list[int], text: str, rows: Any) -> float:
    """Return the divergence of the base model that follows a text's first tokens from the one that follows all of it."""

    def read(prompt: list[int], target: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            logits = base(torch.tensor([[*prompt, *target[:-1]]])).logits[0, -len(target) :]
        return logits.double().log_softmax(-1)

    total, tokens = 0.0, 0
    for example in rows:
        target = example.document.target_ids
        said = read(tokenizer(f"{text}\n\n{example.row.prompt}").input_ids, target)
        own = read([*head, *example.document.prompt_ids], target)
        total += float((said.exp() * (said - own)).sum())
        tokens += len(target)
    return total / tokens


@pytest.mark.slow
def test_the_shipped_config_teaches_what_the_base_model_says_in_context(wider_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT.read_text(encoding="utf-8")[:400], encoding="utf-8")
    flags = {
        "model.name_or_path": wider_model,
        "model.dtype": "float32",
        "task.max_rows": f"{{train: {ROWS}, validation: 4, test: 4}}",
        "prefix.num_virtual_tokens": TOKENS,
        "prefix.init_text": file,
        "training.teacher_context": file,
        "training.steps": 6,
        "training.warmup_steps": 0,
        "training.learning_rate": 0.05,
        "training.batch_size": ROWS,
        "training.eval_every": 6,
        "evaluation.max_new_tokens": 5,
        "evaluation.bootstrap_resamples": 10,
        "run.output_dir": tmp_path / "run",
    }
    pairs = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    command = ["recipes/prefix_tuning.py", "--config", str(ROOT / "configs/home_commands/cartridge.yaml"), *pairs]
    task = parse(load_recipe("prefix_tuning").main, command[1:])["task"]
    assert main_in_process(command) == 0

    base, tokenizer = load_base(wider_model)
    text = file.read_text(encoding="utf-8").strip()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) > 4 * TOKENS, "the text is longer than the prefix"
    rows = encode(load_task(task), tokenizer).train
    curve = losses(read_result(tmp_path / "run")["training"]["history"])
    assert curve[0] == pytest.approx(loss_by_hand(base, tokenizer, ids[:TOKENS], text, rows), rel=1e-4)
    assert curve[-1] < 0.8 * curve[0], "the same rows each time"

    with torch.no_grad():
        cache = base(torch.tensor([ids[:TOKENS]]), use_cache=True).past_key_values
    begun = prompt_embeddings_from_past_key_values(cache, num_virtual_tokens=TOKENS)
    (saved,) = load_file(tmp_path / "run/adapter/adapter_model.safetensors").values()
    torch.testing.assert_close(saved[0], begun[0])
    assert ((saved - begun)[1:].abs().amax(dim=1) > 1e-3).all(), "all but the first token move"
    for record in read_predictions(tmp_path / "run"):
        model = stock_model(tmp_path / "run", wider_model, record)
        assert record["prediction"] == stock_answer(model, tokenizer, record["prompt"])
