"""The three sides of the training benchmark: the same steps with the engine, PEFT under `Trainer`, and TRL.

All have the same rows in the same order and the same initial values. They compute in float32, with the mean loss on the
target tokens of a batch and gradients clipped to norm 1. The optimizer is PyTorch's fused AdamW (`Trainer`'s default).
Other settings of the libraries stay at their defaults: TRL's `SFTTrainer` measures entropy and token accuracy at every
step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.throughput.flops import (
    Method,
    matrix_product_rate,
    padded_whole,
    padding_shares,
    positions,
    sizes_of,
    useful_flops,
)
from softprompts.config.sections import ModelConfig, TaskConfig
from softprompts.encoding.documents import Document
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.loading import count_parameters, load_base_model
from softprompts.runs.environment import peak_memory_gib
from softprompts.tasks.task import load_task

import torch
from datasets import Dataset
from peft import (
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
    initialize_kv_prefix_from_text,
)
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

METHODS = {
    "prompt20": Method("prompt", 20),
    "prompt100": Method("prompt", 100),
    "prefix20": Method("prefix", 20),
    "prefix100": Method("prefix", 100),
    "p_tuning20": Method("p_tuning", 20),
    "lora": Method("lora"),
    # At the learning rate of the others, the first step would destroy the model.
    "full": Method("full", learning_rate=1e-5),
}
TEXT = "Decide whether the sentiment of the following text is positive or negative."
WARM_UP = 1  # steps of every process that are not counted


def attach(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, method: Method) -> Any:
    """Add a method's PEFT adapter to the base model, or unfreeze it, always with the same initial values."""
    torch.manual_seed(0)
    count = method.virtual
    if method.kind == "full":
        return base.requires_grad_(True)
    if method.kind == "prompt":
        config = PromptTuningConfig(
            num_virtual_tokens=count,
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text=TEXT,
            tokenizer_name_or_path=base.name_or_path,
        )
        return add_soft_prompt(base, tokenizer, config)
    if method.kind == "prefix":
        model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count))
        # The first `count` tokens are used; each repetition of the text has more than one.
        initialize_kv_prefix_from_text(model, tokenizer, text=" ".join([TEXT] * count), use_chat_template=False)
        return model
    if method.kind == "p_tuning":
        return get_peft_model(base, PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=count))
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))


Run = tuple[list[float], list[float]]  # seconds and loss of each step


def with_engine(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[Document], method: Method, updates: int
) -> Run:
    """Train with the packed forward pass."""
    engine = Engine(model, tokenizer, packed=True)
    parameters = [p for p in engine.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=method.learning_rate, weight_decay=0.0, fused=True)
    seconds, losses = [], []
    for update in range(updates):
        started = time.perf_counter()
        loss = engine(rows[update * method.batch : (update + 1) * method.batch]).nll().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
    return seconds, losses


class Clock(TrainerCallback):
    """Measure each step of a `Trainer`. Batches are made and losses logged between steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def run(trainer: Trainer) -> Run:
    """Train to the end."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds, [float(h["loss"]) for h in trainer.state.log_history if "loss" in h]


def arguments(folder: str, method: Method, updates: int, device: torch.device) -> dict[str, Any]:
    """Return the settings that both trainers share."""
    return {
        "output_dir": folder,
        "max_steps": updates,
        "per_device_train_batch_size": method.batch,
        "learning_rate": method.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
        # Rows in their own order, as in the engine.
        "train_sampling_strategy": "sequential",
    }


def with_labels(documents: list[Document]) -> dict[str, torch.Tensor]:
    """Return padded rows in the form of `Trainer`: token ids, mask and labels, each (B, S)."""
    input_ids = padded_whole(documents)
    mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, -100)
    for row, document in enumerate(documents):
        start, end = len(document.prompt_ids), len(document.prompt_ids) + len(document.target_ids)
        mask[row, :end] = 1
        labels[row, start:end] = torch.tensor(document.target_ids)
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def with_trainer(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[Document], method: Method, updates: int
) -> Run:
    """Train with PEFT's own forward pass on padded rows with labels."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(**arguments(folder, method, updates, model.device), remove_unused_columns=False)
        return run(Trainer(model, settings, train_dataset=rows, data_collator=with_labels))


def with_trl(model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[Document], method: Method, updates: int) -> Run:
    """Train with TRL on the same token ids and a mask of the targets."""
    # Imported here, because the other sides should not include its memory and time.
    from trl import SFTConfig, SFTTrainer

    dataset = Dataset.from_dict(
        {
            "input_ids": [[*d.prompt_ids, *d.target_ids] for d in rows],
            "completion_mask": [[0] * len(d.prompt_ids) + [1] * len(d.target_ids) for d in rows],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            **arguments(folder, method, updates, model.device),
            completion_only_loss=True,
            packing=False,
            max_length=None,
            # By default TRL recomputes the layers in the backward pass, and uses 16 bits.
            gradient_checkpointing=False,
            bf16=False,
        )
        # The model already has the adapter; with `peft_config` TRL would use its own initial values.
        return run(SFTTrainer(model, settings, train_dataset=dataset, processing_class=tokenizer))


SIDES: dict[str, Callable[[Any, PreTrainedTokenizerBase, list[Document], Method, int], Run]] = {
    "engine": with_engine,
    "peft": with_trainer,
    "trl": with_trl,
}


def measure(name: str, side: str, updates: int) -> dict[str, Any]:
    """Run one side of one method in this process. Lists have an item per counted step, `losses` per step."""
    method = METHODS[name]
    base, tokenizer = load_base_model(ModelConfig(), torch.device("cpu"))
    config = TaskConfig(
        dataset="embedded:sentiment",
        where={"domain": ["movies"]},
        prompt="{text}\nSentiment:",
        target=" {label}",
        choices=[" positive", " negative"],
        max_rows={"train": method.batch * updates, "validation": 1, "test": 1},
    )
    rows = [e.document for e in encode(load_task(config), tokenizer).train]
    batches = [rows[start : start + method.batch] for start in range(WARM_UP * method.batch, len(rows), method.batch)]
    sizes = sizes_of(base)
    model = attach(base, tokenizer, method)
    if method.kind == "lora":
        sizes = replace(sizes, lora=count_parameters(model).trainable)
    rate = matrix_product_rate()
    seconds, losses = SIDES[side](model, tokenizer, rows, method, updates)
    peak = peak_memory_gib()
    # The better of two, because a busy moment does not show the machine's limit.
    rate = max(rate, matrix_product_rate())
    return {
        "seconds": seconds[WARM_UP:],
        "losses": losses,
        "peak_memory_gib": peak,
        "matrix_product_flops": rate,
        "tokens": [sum(len(d.input_ids) for d in batch) for batch in batches],
        "useful_flops": [useful_flops(method, sizes, batch) for batch in batches],
        "positions": [positions(method, batch) for batch in batches],
        "padding_share": padding_shares(method, batches),
    }
