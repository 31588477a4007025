"""The two sides: a shipped recipe's training, and stock PEFT under `Trainer` with the settings of PEFT's guide.

Both have the same base model in the same data type, the same rows of train and the same seeds. Both are validated by
this project's scoring on the same rows after the same numbers of steps. Only the seconds of steps count on both sides,
because users choose how often to validate.
PEFT's guide "Prompt-based methods" (docs/source/task_guides/prompt_based_methods.md) has a learning rate of 0.03 that
falls to zero over 50 epochs, 16 rows per step, AdamW, no warm-up; a prompt as long as its text; a prefix of 20 tokens.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.throughput.sides import with_labels
from benchmarks.time_to_quality.goals import GOALS, Goal, config_of
from softprompts.config.methods import PrefixConfig, PromptConfig
from softprompts.config.sections import EvaluationConfig, ModelConfig, TaskConfig, TrainingConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.evaluation.predict import answers_and_targets, predict
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.metrics.scoring import compute_metrics, load_metrics
from softprompts.models.loading import input_spec, load_base_model
from softprompts.tasks.task import load_task
from softprompts.training.averaging import averaged
from softprompts.training.state import make_candidate
from softprompts.training.step import update

import torch
from accelerate import Accelerator
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

EVERY = 10  # steps between the first validations
GROWTH = 1.1  # later ones are this factor of steps apart, so ten times the steps have not ten times as many
ROWS = 100  # validation rows
EPOCHS = 50  # epochs in PEFT's guide
STOCK_RATE = 0.03
STOCK_BATCH = 16
STOCK_PREFIX = 20


@dataclass
class Watch:
    """Validate after `EVERY` steps, later less often, and decide when to stop. `seconds` are those of the steps only.

    `limit` is the number of seconds after which the run is ended.
    """

    goal: Goal
    engine: Engine
    data: EncodedTask
    evaluation: EvaluationConfig
    limit: float
    seconds: float = 0.0
    updates: int = 0

    def __post_init__(self) -> None:
        self.curve: list[dict[str, float]] = []
        self.due = EVERY
        task = self.data.task
        self.metrics = load_metrics(task.metrics, task.schema, task.metric_data)

    def passed(self, seconds: float, average: Mapping[str, torch.Tensor] | None = None) -> bool:
        """Count a step of this number of seconds; return whether it was the last.

        The values of `average`, from `training.ema`, are those that the validation scores.
        """
        self.seconds += seconds
        self.updates += 1
        if self.updates < self.due:
            return False
        self.due = max(self.updates + EVERY, math.ceil(GROWTH * self.updates))
        with averaged(self.engine.model, average or {}):
            outcome = predict(self.engine, self.data.validation, self.evaluation, Accelerator(), "validating")
        score = compute_metrics(self.metrics, *answers_and_targets(outcome.predictions))[self.goal.metric]
        self.curve.append({"update": self.updates, "seconds": self.seconds, "score": score})
        return self.reached or self.seconds >= self.limit

    @property
    def reached(self) -> bool:
        """Whether the last validation reached the score."""
        return bool(self.curve) and self.curve[-1]["score"] >= self.goal.score


def measure(name: str, side: str, seed: int, limit: float) -> dict[str, Any]:
    """Train one side in this process until it reaches the goal, or for `limit` seconds of steps."""
    goal = GOALS[name]
    config = config_of(goal)
    task = TaskConfig(**config["task"])
    rows = load_task(replace(task, max_rows={**task.max_rows, "validation": ROWS, "test": 1}))
    model = ModelConfig(**config["model"])
    base, tokenizer = load_base_model(model, Accelerator().device, rows.choices)
    evaluation = EvaluationConfig(**config["evaluation"])
    if not rows.choices:
        # An answer is one line. The stock side learns to end it late or never.
        evaluation = replace(evaluation, stop=["\n"])

    def watch(engine: Engine, data: EncodedTask) -> Watch:
        return Watch(goal, engine, data, evaluation, limit)

    if side == "recipe":
        found = with_recipe(goal, config, base, tokenizer, rows, seed, watch)
    else:
        found = with_trainer(goal, base, tokenizer, rows, seed, watch)
    return {
        "side": side,
        "seed": seed,
        "reached": found.reached,
        "seconds": found.seconds,
        "updates": found.updates,
        "curve": found.curve,
        "dtype": str(base.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


Watching = Callable[[Engine, EncodedTask], Watch]


def with_recipe(
    goal: Goal,
    config: dict[str, Any],
    base: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Any,
    seed: int,
    watching: Watching,
) -> Watch:
    """Train as the shipped recipe does, except for the validations. A loss that is not finite ends the training.

    Raises:
        UserError: the config has a teacher, or an adapter to start from, which this benchmark does not support.
    """
    training = TrainingConfig(**config["training"])
    check_alone(goal, config, training)
    if goal.recipe == "prompt_tuning":
        tuned = add_soft_prompt(base, tokenizer, PromptConfig(**config["prompt"]), seed=seed, task=rows)
    else:
        tuned = add_prefix(base, tokenizer, PrefixConfig(**config["prefix"]), seed=seed, task=rows)
    data = encode(rows, tokenizer, input_spec(base, tuned.active_peft_config.num_virtual_tokens))
    engine = make_engine(tuned, tokenizer, config=ModelConfig(**config["model"]), data=data, say=print)
    accelerator = Accelerator()
    wrapped = accelerator.prepare(engine)
    watch = watching(engine, data)
    with tempfile.TemporaryDirectory() as folder:
        candidate = make_candidate(engine, 0, data=data, training=training, seed=seed, folder=Path(folder))
        candidate.start_clock()
        while candidate.progress.step < training.steps:
            started = time.perf_counter()
            documents = candidate.rows()
            (loss,) = update(wrapped, [(candidate, documents)], accelerator)
            candidate.record_update(loss, documents)
            if candidate.failure:
                told = candidate.failure.partition(";")[0]  # without the checkpoint, which this benchmark does not keep
                print(f"{goal.recipe}, seed {seed}: given up: {told}", flush=True)
                break
            if watch.passed(time.perf_counter() - started, candidate.average):
                break
    return watch


def check_alone(goal: Goal, config: Mapping[str, Any], training: TrainingConfig) -> None:
    """Raise `UserError` for a config that needs a teacher or another adapter: their time would not be counted."""
    section = "prompt" if goal.recipe == "prompt_tuning" else "prefix"
    keys = {
        "training.teacher": training.teacher,
        "training.teacher_context": training.teacher_context,
        f"{section}.init_adapter": config[section].get("init_adapter"),
    }
    for key, value in keys.items():
        if value is not None:
            raise UserError(f"{key}: time_to_quality does not support it, found {value}; set it to null")


class Clock(TrainerCallback):
    """Report the seconds of each step of a `Trainer`, including those for its batch."""

    def __init__(self, watch: Watch, model: Any) -> None:
        self.watch, self.model = watch, model
        self.started = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *given: Any, **_: Any) -> None:
        control = given[2]
        seconds = time.perf_counter() - self.started
        self.model.eval()
        control.should_training_stop = self.watch.passed(seconds)
        self.model.train()
        self.started = time.perf_counter()


def with_trainer(
    goal: Goal, base: Any, tokenizer: PreTrainedTokenizerBase, rows: Any, seed: int, watching: Watching
) -> Watch:
    """Train as PEFT's guide does."""
    torch.manual_seed(seed)
    if goal.recipe == "prompt_tuning":
        # As in the guide: a sentence that describes the task, and as many virtual tokens as its tokens.
        text = f"Classify if the text is {' or '.join(c.strip() for c in rows.choices)}.\n"
        count = len(tokenizer(text).input_ids)
        made: Any = PromptTuningConfig(
            task_type="CAUSAL_LM",
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text=text,
            num_virtual_tokens=count,
            tokenizer_name_or_path=base.name_or_path,
        )
    else:
        made = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=STOCK_PREFIX)
    model: Any = get_peft_model(base, made)
    data = encode(rows, tokenizer, input_spec(base, made.num_virtual_tokens))
    documents = [example.document for example in data.train]
    # It only validates, in this project's forward pass if that matches PEFT's. Training is PEFT's own.
    watch = watching(make_engine(model, tokenizer, config=ModelConfig("", dtype="auto"), data=data, say=print), data)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=STOCK_BATCH,
            learning_rate=STOCK_RATE,
            lr_scheduler_type="linear",
            seed=seed,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=base.device.type == "cpu",
            remove_unused_columns=False,
        )
        clock = Clock(watch, model)
        Trainer(model, settings, train_dataset=documents, data_collator=with_labels, callbacks=[clock]).train()
    return watch
