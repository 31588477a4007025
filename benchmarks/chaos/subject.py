"""The run that the faults disturb: a short prompt tuning on a tiny random model and random rows."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "awful", "dull", "poor")
WORDS = (*GOOD, *BAD, "the", "film", "was", "a", "very", "plot", "and", "cast", "sentiment", "positive", "negative")
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
ROWS = {"train": 64, "validation": 24, "test": 96}
STEPS, EVAL_EVERY = 40, 5


def make_subject(folder: Path) -> None:
    """Write the model and the rows, the same in every call."""
    words = Tokenizer(models.WordLevel({w: n for n, w in enumerate((*SPECIAL, *WORDS))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokens.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=0.2,  # with the default 0.02, all answers of a random model would be the same
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    drawn = random.Random(0)
    (folder / "task").mkdir()
    for split, count in ROWS.items():
        lines = []
        for number in range(count):
            label, words_of = (("positive", GOOD), ("negative", BAD))[number % 2]
            others = " ".join(drawn.choices(WORDS[8:-2], k=6))
            lines.append(json.dumps({"text": f"{others} {drawn.choice(words_of)}", "label": label}))
        (folder / "task" / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def command_of(subject: Path, output: Path, *more: str, **flags: Any) -> list[str]:
    """Return the flags of the run, `more` and `flags` after them."""
    settings: dict[str, Any] = {
        "model.name_or_path": subject / "model",
        "task.prompt": "{text} sentiment",
        "task.target": " {label}",
        "task.choices": '[" positive", " negative"]',
        **{f"task.{split}": subject / "task" / f"{split}.jsonl" for split in ROWS},
        "prompt.num_virtual_tokens": 8,
        "prompt.prompt_tuning_init": "RANDOM",
        "training.steps": STEPS,
        "training.eval_every": EVAL_EVERY,
        "training.batch_size": 8,
        "training.learning_rate": 0.05,
        "training.best_by": "loss",
        "evaluation.batch_size": 2,
        "evaluation.bootstrap_resamples": 20,
        "run.trackers": "[tensorboard]",
        "run.output_dir": output,
    }
    return [word for key, value in (settings | flags).items() for word in (f"--{key}", str(value))] + list(more)


def left_by(output: Path) -> tuple[bytes, bytes] | None:
    """Return the bytes of a run's adapter and of its test predictions; None if one is missing."""
    files = output / "adapter" / "adapter_model.safetensors", output / "predictions.jsonl"
    if not all(file.is_file() for file in (*files, output / "result.json")):
        return None
    return files[0].read_bytes(), files[1].read_bytes()


def error_lines(texts: Sequence[str]) -> list[str]:
    """Return the lines of processes' output that begin with "error: ", without progress bars."""
    parts = [part.strip() for text in texts for part in text.replace("\r", "\n").split("\n")]
    return [part for part in parts if part.startswith("error: ")]
