"""Training throughput: one update with this engine against PEFT's own forward under transformers' `Trainer`.

    python benchmarks/training_throughput.py [--quick]

Each measurement is a process of its own, so that peak memory is its own; the two sides take turns, so that a change of
the machine's speed meets both. Same rows in the same order, model, threads, precision and optimizer. The losses of the
first update must agree. Writes one record a method to `results/throughput/` and skips those that are there; `--quick`
measures less, writes nothing and ends in a line of ratios.

Useful work of an update is counted as 4 * N * (n + p) + 4 * V * H * t multiply-add flops: forward and backward through
the N weights of the frozen linear layers (no weight gradients), for n tokens of text and p virtual tokens counted once,
and the output embedding (V, H) at t targets. `limit_share` is that over the seconds, against a plain product of 2048 x
2048 matrices on the same threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from softprompts.batching import Document, encode, pad
from softprompts.checkpoints import write_atomically
from softprompts.config import ModelConfig, TaskConfig
from softprompts.engine import Engine, Scores
from softprompts.models import load_base_model
from softprompts.prompts.initial import add_soft_prompt
from softprompts.results import environment, peak_memory_gib
from softprompts.tasks import load_task

import torch
from peft import LoraConfig, PeftModel, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

RESULTS = Path("results/throughput")
TEXT = "Decide whether the sentiment of the following text is positive or negative."
METHODS = ("prompt20", "prompt100", "p_tuning20", "lora")
SIDES = ("engine", "peft")
BATCH_SIZE = 16
LEARNING_RATE = 0.01
WARM_UP = 1  # updates of every process that are not counted


def attach(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, method: str) -> PeftModel:
    """Put a method's PEFT adapter on the base model; the same numbers every time."""
    torch.manual_seed(0)
    if method.startswith("prompt"):
        config = PromptTuningConfig(
            num_virtual_tokens=int(method.removeprefix("prompt")),
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text=TEXT,
            tokenizer_name_or_path=base.name_or_path,
        )
        return add_soft_prompt(base, tokenizer, config)
    if method == "p_tuning20":
        return get_peft_model(base, PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=20))
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))


class Clock(TrainerCallback):
    """Notes when each update of a `Trainer` begins and ends."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def with_trainer(model: PeftModel, rows: list[Document], updates: int) -> tuple[list[float], list[float]]:
    """Train through `Trainer` on padded rows with labels; return seconds and loss of each update."""

    def collate(documents: list[Document]) -> dict[str, torch.Tensor]:
        whole = [Document(d.prompt_ids + d.target_ids, d.target_ids[-1:]) for d in documents]
        batch = pad(whole, torch.device("cpu"))
        labels = torch.full_like(batch.input_ids, -100)
        for row, document in enumerate(documents):
            end = len(document.prompt_ids) + len(document.target_ids)
            labels[row, len(document.prompt_ids) : end] = torch.tensor(document.target_ids)
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                max_steps=updates,
                per_device_train_batch_size=BATCH_SIZE,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                logging_steps=1,
                report_to=[],
                save_strategy="no",
                remove_unused_columns=False,
                disable_tqdm=True,
                use_cpu=True,
                # Rows in their own order, as the other side takes them.
                train_sampling_strategy="sequential",
            ),
            train_dataset=rows,
            data_collator=collate,
            callbacks=[clock],
        )
        trainer.train()
    return clock.seconds, [float(h["loss"]) for h in trainer.state.log_history if "loss" in h]


def with_engine(engine: Engine, rows: list[Document], updates: int) -> tuple[list[float], list[float]]:
    """Train with the packed forward; return seconds and loss of each update."""
    parameters = [p for p in engine.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    seconds, losses = [], []
    for update in range(updates):
        started = time.perf_counter()
        loss = Scores(*engine(rows[update * BATCH_SIZE : (update + 1) * BATCH_SIZE])).nll().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
    return seconds, losses


def measure(method: str, side: str, updates: int) -> dict[str, Any]:
    """Run one side of one method in this process."""
    base, tokenizer = load_base_model(ModelConfig(), torch.device("cpu"))
    config = TaskConfig(
        dataset="embedded:sentiment",
        where={"domain": ["movies"]},
        prompt="{text}\nSentiment:",
        target=" {label}",
        choices=[" positive", " negative"],
        max_rows={"train": BATCH_SIZE * updates, "validation": 1, "test": 1},
    )
    rows = [e.document for e in encode(load_task(config), tokenizer, None).train]
    embeddings: Any = base.get_input_embeddings()
    vocabulary = embeddings.weight.numel()
    linear = sum(p.numel() for p in base.parameters()) - vocabulary
    model = attach(base, tokenizer, method)
    engine = Engine(model, tokenizer, packed=True)
    run = with_engine(engine, rows, updates) if side == "engine" else with_trainer(model, rows, updates)
    peak = peak_memory_gib()
    tokens = sum(len(d.input_ids) for d in rows[WARM_UP * BATCH_SIZE :]) / (updates - WARM_UP)
    virtual = 0 if method == "lora" else int("".join(c for c in method if c.isdigit()))
    flops = 4 * linear * (tokens + virtual) + 4 * vocabulary * BATCH_SIZE
    return {
        "seconds": run[0][WARM_UP:],
        "losses": run[1],
        "peak_memory_gib": peak,
        "tokens_an_update": tokens,
        "useful_flops_an_update": flops,
        "matrix_product_flops": matrix_product_rate(),
    }


def matrix_product_rate(size: int = 2048, repeats: int = 8) -> float:
    """Return the flops a second of float32 matrix products on this process's threads: the best of some."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def compare(method: str, rounds: int, updates: int) -> dict[str, Any]:
    """Let both sides take turns, each time in a new process; return their medians and the ratio round by round."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            command = [sys.executable, __file__, "--worker", method, side, "--updates", str(updates)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{method}, {side}: {done.stderr[-2000:]}")
            runs[side].append(json.loads(done.stdout.splitlines()[-1]))
    first = [runs[side][0]["losses"][0] for side in SIDES]
    # Trainer rounds the loss that it logs.
    if abs(first[0] - first[1]) > 1e-3 * abs(first[1]):
        sys.exit(f"{method}: the first loss is {first[0]} with the engine and {first[1]} with PEFT")
    medians = {side: [statistics.median(r["seconds"]) for r in runs[side]] for side in SIDES}
    ratios = [peft / engine for engine, peft in zip(medians["engine"], medians["peft"], strict=True)]
    best = runs["engine"][0]
    rate = statistics.median(r["matrix_product_flops"] for r in runs["engine"])
    return {
        "method": method,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "seconds_an_update": {side: statistics.median(medians[side]) for side in SIDES},
        "peak_memory_gib": {side: statistics.median(r["peak_memory_gib"] for r in runs[side]) for side in SIDES},
        "tokens_a_second": best["tokens_an_update"] / statistics.median(medians["engine"]),
        "limit_share": best["useful_flops_an_update"] / statistics.median(medians["engine"]) / rate,
        "first_losses": dict(zip(SIDES, first, strict=True)),
        "settings": {"rounds": rounds, "updates": updates - WARM_UP, "batch_size": BATCH_SIZE},
        "environment": environment(),
        "runs": runs,
    }


def main() -> None:
    """Measure every method, print a line for each, keep the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of fewer updates, no record")
    parser.add_argument("--worker", nargs=2, metavar=("METHOD", "SIDE"), help=argparse.SUPPRESS)
    parser.add_argument("--updates", type=int, default=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        method, side = options.worker
        print(json.dumps(measure(method, side, options.updates)))
        return
    made = []
    for method in ("prompt20", "prompt100") if options.quick else METHODS:
        path = RESULTS / f"{method}.json"
        if options.quick or not path.is_file():
            record = compare(method, *((1, 3) if options.quick else (3, 6)))
            if not options.quick:
                RESULTS.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(record, indent=1) + "\n")
        else:
            record = json.loads(path.read_text(encoding="utf-8"))
        seconds, memory = record["seconds_an_update"], record["peak_memory_gib"]
        print(
            f"{method:10s} {record['ratio']:.2f}x  {seconds['engine']:.2f} against {seconds['peft']:.2f} s an update, "
            f"{memory['engine']:.2f} against {memory['peft']:.2f} GiB, "
            f"{100 * record['limit_share']:.0f} % of the matrix-product rate",
            flush=True,
        )
        made.append(record)
    ratios = " ".join(f"ratio_{r['method']}={r['ratio']:.2f}" for r in made)
    print(f"{ratios} limit_share={made[0]['limit_share']:.2f}")


if __name__ == "__main__":
    main()
