"""Settings of training that contradict each other, the launch, or the data: found before a base model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from softprompts.config.sections import TrainingConfig
from softprompts.errors import UserError, check_above_zero, nearest

from accelerate import Accelerator
from accelerate.utils import DistributedType

# Most times that an update may read every row of train. A batch may straddle epochs, and be larger than a handful of
# rows, as when one config serves several sizes of train.
EPOCHS = 100


def check_training(training: TrainingConfig, accelerator: Accelerator, metrics: Sequence[str], rows: int) -> None:
    """Raise `UserError` for settings that contradict each other, this launch, or the number of rows in train."""
    above = ("steps", "batch_size", "micro_batch_tokens", "eval_every", "eval_rows", "patience")
    for key in (*above, "learning_rate", "max_grad_norm"):
        check_above_zero(f"training.{key}", getattr(training, key))
    if training.batch_size > EPOCHS * rows:
        raise UserError(
            f"training.batch_size: {training.batch_size} is more than {EPOCHS} times the {rows} rows of train: an "
            "update would read each of them again and again, for a gradient that stays the same; take fewer, and more "
            "training.steps"
        )
    for key in ("warmup_steps", "weight_decay"):
        if not getattr(training, key) >= 0:
            raise UserError(f"training.{key}: expected 0 or more, found {getattr(training, key)}")
    if not 0 <= training.ema < 1:
        raise UserError(f"training.ema: expected 0 or more and less than 1, found {training.ema}")
    _check_teacher(training)
    if training.best_by not in ("loss", *metrics):
        raise UserError(f'training.best_by: "{training.best_by}"{nearest(training.best_by, ["loss", *metrics])}')
    if training.energy and find_spec("codecarbon") is None:
        raise UserError(
            "training.energy: codecarbon is not installed; run `pip install codecarbon`, or set it to false"
        )
    _check_launch(accelerator, training.batch_size)


def _check_teacher(training: TrainingConfig) -> None:
    if not 0 <= training.teacher_weight <= 1:
        raise UserError(f"training.teacher_weight: expected 0 to 1, found {training.teacher_weight}")
    check_above_zero("training.teacher_temperature", training.teacher_temperature)
    without = replace(training, teacher=None, teacher_context=None)
    for key in ("teacher_weight", "teacher_temperature", "teacher_any_base"):
        if without == training and getattr(training, key) != getattr(TrainingConfig, key):
            raise UserError(f"training.{key}: there is no teacher; name one in training.teacher, or teacher_context")


def _check_launch(accelerator: Accelerator, batch_size: int) -> None:
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:  # accelerate would compute in float32
        raise UserError("--mixed_precision fp16: not on this device; launch with bf16 or no, or set model.dtype")
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            f"accelerate's gradient_accumulation_steps: {accelerator.gradient_accumulation_steps}; an update sees "
            "training.batch_size rows, and training.micro_batch_tokens parts them: set it to 1"
        )
    processes = accelerator.num_processes
    if batch_size % processes:
        raise UserError(f"training.batch_size: {batch_size} rows cannot be shared by {processes} processes")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UserError(
            f"{accelerator.distributed_type.value}: a sharded base model is not supported yet; "
            "launch with configs/accelerate/multi_gpu.yaml, which keeps a whole one on each GPU"
        )
