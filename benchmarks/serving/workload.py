"""The input of all ways of serving: eight tasks with an adapter each, and texts of the embedded data."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.loads import Request
from softprompts.config.sections import ModelConfig, TaskConfig
from softprompts.encoding.encoder import Encoder
from softprompts.models.loading import default_device, load_base_model, max_positions
from softprompts.tasks.task import Task, load_task

import yaml
from peft import (
    PeftType,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    initialize_kv_prefix_from_text,
)

VIRTUAL = 20  # tokens of every soft prompt
ANSWER = 24  # tokens of every answer, because end tokens do not end it
ROWS = 12  # texts of each task


@dataclass(frozen=True)
class ServedTask:
    """A task of the benchmark: rows of an embedded task, and the kind of its soft prompt."""

    dataset: str
    where: dict[str, list[str]]
    kind: PeftType


TASKS = {
    "movies": ServedTask("sentiment", {"domain": ["movies"]}, PeftType.PROMPT_TUNING),
    "tweets": ServedTask("sentiment", {"domain": ["tweets"]}, PeftType.PREFIX_TUNING),
    "home-en": ServedTask("home_commands", {"language": ["en"]}, PeftType.PROMPT_TUNING),
    "home-de": ServedTask("home_commands", {"language": ["de"]}, PeftType.PREFIX_TUNING),
    "home-fr": ServedTask("home_commands", {"language": ["fr"]}, PeftType.PROMPT_TUNING),
    "home-es": ServedTask("home_commands", {"language": ["es"]}, PeftType.PREFIX_TUNING),
    "numpy": ServedTask("docstrings", {"library": ["numpy"]}, PeftType.PROMPT_TUNING),
    "pandas": ServedTask("docstrings", {"library": ["pandas"]}, PeftType.PREFIX_TUNING),
}


def loaded(model: str | None = None) -> tuple[Any, Any]:
    """Return a base model, float32, without end tokens in `generate`, and its tokenizer; by default the bundled one."""
    config = ModelConfig(name_or_path=model or "bundled:smollm2-135m-instruct", dtype="float32")
    base, tokenizer = load_base_model(config, default_device())
    # Settings of a call are not enough: a missing one, such as the end token, is read from here.
    base.generation_config.eos_token_id = None
    return base, tokenizer


def rows_of(task: ServedTask) -> Task:
    """Return the rows of a task with the settings of its shipped config."""
    file = Path("configs", task.dataset, "prompt_tuning.yaml")
    config = yaml.safe_load(file.read_text(encoding="utf-8"))["task"]
    return load_task(TaskConfig(**config | {"where": task.where, "max_rows": {"test": ROWS}}))


def save_adapters(base: Any, tokenizer: Any, folder: Path) -> None:
    """Write a stock PEFT adapter for each task; it starts from few-shot examples of the task and is not trained."""
    for name, task in TASKS.items():
        if (folder / name).is_dir():
            continue
        text = "\n".join(row.prompt + row.target for row in rows_of(task).splits["train"][:8])
        if task.kind == PeftType.PROMPT_TUNING:
            config = PromptTuningConfig(
                task_type="CAUSAL_LM",
                num_virtual_tokens=VIRTUAL,
                prompt_tuning_init="TEXT",
                prompt_tuning_init_text=text,
                tokenizer_name_or_path=base.name_or_path,
            )
            model = get_peft_model(base, config)
        else:
            model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL))
            initialize_kv_prefix_from_text(model, tokenizer, text=text, use_chat_template=False)
        model.save_pretrained(str(folder / name))


def all_requests(base: Any, tokenizer: Any) -> list[Request]:
    """Return each text of each task once, cut if the base model has too few positions."""
    room = (max_positions(base) or sys.maxsize) - VIRTUAL - ANSWER
    encoder = Encoder(tokenizer, ("The quick brown fox.", " jumps\nover 12 lazy dogs!"))
    found = []
    for name, task in TASKS.items():
        texts = [row.prompt for row in rows_of(task).splits["test"]]
        found += [Request(name, number, ids[:room]) for number, ids in enumerate(encoder.open_ids(texts))]
    return found
