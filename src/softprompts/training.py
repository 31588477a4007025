"""The one training loop: accumulate, clip, schedule, validate, keep the best, stop, resume."""

from __future__ import annotations

import itertools
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any, NoReturn

from softprompts.batching import Document, EncodedTask, batch_order
from softprompts.checkpoints import Progress, load_best, load_checkpoint, save_checkpoint
from softprompts.config import EvaluationConfig, TrainingConfig
from softprompts.engine import Engine, Scores
from softprompts.errors import UserError, nearest
from softprompts.evaluation import compute_metrics, load_metrics, predict
from softprompts.runs import Run

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch import nn
from torch.optim import Optimizer
from tqdm.auto import tqdm
from transformers import get_scheduler


def train(
    engine: Engine,
    data: EncodedTask,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    run: Run,
) -> Progress:
    """Train what requires a gradient in `engine.model` and leave it at its best checkpoint.

    The loss of an update is the mean over the target tokens of its `batch_size` rows, however they are shared out
    over micro-batches and processes.

    Raises:
        UserError: settings that do not fit together; nothing receives a gradient, or the base does; a loss that is
            not finite; a full disk.
        SystemExit: with code 128 + signal, after SIGINT or SIGTERM, the checkpoint saved.
    """
    accelerator = run.accelerator
    metrics = load_metrics(data.task.metrics)
    check_training(training, accelerator, list(metrics))
    validation = data.validation[: training.eval_rows]
    optimizer = make_optimizer(engine, training)
    # Accelerate would step the schedule once a process; it stays outside.
    scheduler = get_scheduler(training.schedule, optimizer, training.warmup_steps, training.steps)
    progress = load_checkpoint(run.checkpoints, engine, optimizer, scheduler) or Progress()
    if progress.step:
        run.say(f"resuming at step {progress.step} of {training.steps}")
    wrapped, prepared = accelerator.prepare(engine, optimizer)
    order = batch_order(len(data.train), training.batch_size, run.seed)
    bar = tqdm(
        total=training.steps,
        initial=progress.step,
        desc="training",
        unit="step",
        disable=not accelerator.is_local_main_process,
    )

    def note(text: str) -> None:
        """Write a line above the bar: a disabled bar of another process would write it again."""
        if accelerator.is_local_main_process:
            bar.write(text)

    def validate() -> None:
        """Validate, remember the best, save a checkpoint."""
        outcome = predict(
            engine, validation, evaluation, accelerator, "validating", answer_open=training.best_by != "loss"
        )
        entry = {"step": progress.step, "validation_loss": outcome.loss}
        if validation[0].choices or training.best_by != "loss":
            entry |= {f"validation_{k}": v for k, v in compute_metrics(metrics, outcome.predictions).items()}
        value = -outcome.loss if training.best_by == "loss" else entry[f"validation_{training.best_by}"]
        if progress.best_value is None or value > progress.best_value:
            progress.best_value, progress.best_step, progress.validations_without_gain = (
                value,
                progress.step,
                0,
            )
        else:
            progress.validations_without_gain += 1
        progress.history.append(entry)
        accelerator.log({k: v for k, v in entry.items() if k != "step"}, step=progress.step)
        note("  ".join([f"step {progress.step:4d}"] + [f"{k} {v:.4f}" for k, v in list(entry.items())[1:]]))
        save()

    def save() -> None:
        error: list[Exception | None] = [None]
        if accelerator.is_main_process:
            try:
                save_checkpoint(run.checkpoints, engine, optimizer, scheduler, progress)
            except UserError as full:
                error[0] = full
        broadcast_object_list(error)  # one that went on alone would wait for the others for ever
        if error[0]:
            raise error[0]

    def stop() -> NoReturn:
        number = received[0] if received else signal.SIGTERM
        run.say(f"\nstopped by {signal.Signals(number).name} at step {progress.step}; go on with --resume")
        raise SystemExit(128 + number)

    with stop_signal() as received, bar:  # closes the bar's line before an error is printed
        started = time.perf_counter() - progress.seconds
        if _validation_due(progress, training):
            validate()
        for step, indices in enumerate(itertools.islice(order, progress.step, training.steps), progress.step):
            if _patience_spent(progress, training):
                note(f"stopped early: no gain in {training.patience} validations")
                break
            # Each update seeds its own dropout, so that a resumed run needs no generator states.
            torch.manual_seed(run.seed * 1_000_003 + step * 1_009 + accelerator.process_index)
            rows = [data.train[i].document for i in indices]
            loss = update(wrapped, prepared, scheduler, rows, training, accelerator, first=step == 0)
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss or its gradient became {loss} at step {step + 1}; the state of step {_last_saved(run)} "
                    f"is kept in {run.checkpoints}. Lower training.learning_rate ({training.learning_rate})"
                )
            progress.step = step + 1
            progress.tokens += sum(len(d.input_ids) for d in rows)
            progress.seconds = time.perf_counter() - started
            progress.history.append({"step": progress.step, "loss": loss, "lr": scheduler.get_last_lr()[0]})
            accelerator.log({"loss": loss, "lr": scheduler.get_last_lr()[0]}, step=progress.step)
            bar.update()
            bar.set_postfix(loss=f"{loss:.4f}")
            if _any_process(bool(received), accelerator):
                save()
                stop()
            if _validation_due(progress, training):
                validate()
        if _any_process(bool(received), accelerator):  # during the last validation, which has saved
            stop()
    load_best(run.checkpoints, engine, progress.best_step)
    return progress


def update(
    wrapped: nn.Module,
    optimizer: Any,
    scheduler: Any,
    rows: Sequence[Document],
    training: TrainingConfig,
    accelerator: Accelerator,
    first: bool,
) -> float:
    """Make one optimizer step on `rows` and return their mean loss a target token, in nats."""
    mine = rows[accelerator.process_index :: accelerator.num_processes]
    size = training.micro_batch_size or len(mine)
    micro_batches = [mine[i : i + size] for i in range(0, len(mine), size)]
    targets = sum(len(d.target_ids) for d in rows)
    total = torch.zeros((), device=accelerator.device)
    for index, documents in enumerate(micro_batches):
        last = index == len(micro_batches) - 1
        with nullcontext() if last else accelerator.no_sync(wrapped):
            loss = Scores(*wrapped(documents)).nll().sum() / targets
            total += loss.detach()
            if first and not loss.requires_grad:
                raise UserError("nothing receives a gradient at step 0: the loss does not depend on what trains")
            # Data parallelism averages the gradients of the processes, the loss is a sum over all of their rows.
            accelerator.backward(loss * accelerator.num_processes)
    total = accelerator.reduce(total, "sum")
    if not torch.isfinite(total):
        optimizer.zero_grad()
        return total.item()
    if first:
        check_gradients(wrapped)
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    norm = accelerator.clip_grad_norm_(parameters, training.max_grad_norm)
    # A gradient scaler (float16) meets infinite gradients by design, and skips the update by itself.
    if accelerator.scaler is None and norm is not None and not torch.isfinite(norm):
        optimizer.zero_grad()
        return norm.item()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    return total.item()


def make_optimizer(engine: Engine, training: TrainingConfig) -> Optimizer:
    """Return the optimizer over the trainable parameters."""
    parameters = [p for p in engine.parameters() if p.requires_grad]
    if not parameters:
        raise UserError("nothing to train: no parameter requires a gradient")
    if training.optimizer == "adafactor":
        return torch.optim.Adafactor(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)


def check_training(training: TrainingConfig, accelerator: Accelerator, metrics: Sequence[str]) -> None:
    """Raise `UserError` for settings that contradict each other or this launch."""
    above = ("steps", "batch_size", "micro_batch_size", "eval_every", "eval_rows", "patience")
    for key in (*above, "learning_rate", "max_grad_norm"):
        value = getattr(training, key)
        if value is not None and not value > 0:  # so that NaN fails, too
            raise UserError(f"training.{key}: expected a number above 0, found {value}")
    for key in ("warmup_steps", "weight_decay"):
        if not getattr(training, key) >= 0:
            raise UserError(f"training.{key}: expected 0 or more, found {getattr(training, key)}")
    if training.best_by not in ("loss", *metrics):
        raise UserError(f'training.best_by: "{training.best_by}"{nearest(training.best_by, ["loss", *metrics])}')
    processes = accelerator.num_processes
    if training.batch_size % processes:
        raise UserError(f"training.batch_size: {training.batch_size} rows cannot be shared by {processes} processes")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UserError(
            f"{accelerator.distributed_type.value}: a sharded base model is not supported yet; "
            "launch with configs/accelerate/multi_gpu.yaml, which keeps a whole one on each GPU"
        )


def check_gradients(model: nn.Module) -> None:
    """Check after the first backward pass that all that trains received a gradient, and nothing else did.

    Raises:
        UserError: names the parameter. A soft prompt without gradient would train to no effect, for hours.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any()):
            raise UserError(f"{name} receives no gradient at step 0: it would never move")
        if not parameter.requires_grad and parameter.grad is not None:
            raise UserError(f"{name} is frozen but received a gradient")


@contextmanager
def stop_signal() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying; a second signal kills as usual."""
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Agree: processes that do not stop together would wait for each other for ever."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum").item())


def _patience_spent(progress: Progress, training: TrainingConfig) -> bool:
    return training.patience is not None and progress.validations_without_gain >= training.patience


def _validation_due(progress: Progress, training: TrainingConfig) -> bool:
    """Say whether this step is still to be validated: a run may have been stopped between step and validation."""
    at = progress.step % training.eval_every == 0 or progress.step == training.steps
    return at and not (progress.history and "validation_loss" in progress.history[-1])


def _last_saved(run: Run) -> int:
    return max(int(p.name.removeprefix("step-")) for p in run.checkpoints.glob("step-*"))
