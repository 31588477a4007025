"""Check that the training settings fit together, the launch and the data, before a base model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from softprompts.config.sections import TrainingConfig
from softprompts.errors import UserError, nearest

from accelerate import Accelerator

# Most times that a step may read every row of train. A batch may span epochs and exceed a small train split, for
# example if one config serves several sizes of train.
EPOCHS = 100


def check_training(training: TrainingConfig, accelerator: Accelerator, metrics: Sequence[str], rows: int) -> None:
    """Raise `UserError` for settings that contradict each other, this launch, or the number of rows in train."""
    if training.batch_size > EPOCHS * rows:
        raise UserError(
            f"training.batch_size: {training.batch_size} is more than {EPOCHS} times the {rows} rows of train: a "
            "larger batch repeats rows and hardly changes the gradient; use a smaller one and more training.steps"
        )
    if training.best_by not in ("loss", *metrics):
        raise UserError(f'training.best_by: "{training.best_by}"{nearest(training.best_by, ["loss", *metrics])}')
    if training.energy and find_spec("codecarbon") is None:
        raise UserError(
            "training.energy: codecarbon is not installed; run `pip install codecarbon`, or set it to false"
        )
    _check_launch(accelerator, training.batch_size)


def _check_launch(accelerator: Accelerator, batch_size: int) -> None:
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:  # accelerate would compute in float32
        raise UserError("--mixed_precision fp16: not on this device; launch with bf16 or no, or set model.dtype")
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            f"accelerate's gradient_accumulation_steps: {accelerator.gradient_accumulation_steps}; set it to 1: a step "
            "always has training.batch_size rows, and training.micro_batch_tokens divides them into micro-batches"
        )
    processes = accelerator.num_processes
    if batch_size % processes:
        raise UserError(f"training.batch_size: {batch_size} rows cannot be shared by {processes} processes")
