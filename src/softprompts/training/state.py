"""The state of one training: a soft prompt or other parameters, with their rows, optimizer, schedule and progress."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softprompts.checkpoints.files import forget_later, load_best, load_checkpoint, save_checkpoint
from softprompts.checkpoints.folders import checkpoint_folders
from softprompts.config.sections import TrainingConfig
from softprompts.encoding.documents import Document, EncodedTask
from softprompts.engine.forward import Engine
from softprompts.methods.soft_prompts.context_tuning import TrainingMask
from softprompts.models.sharding.tensors import Part
from softprompts.runs.record import Progress
from softprompts.training.averaging import add_to_average, new_average
from softprompts.training.optimizers import make_optimizer
from softprompts.training.teacher import Teacher

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler


@dataclass(kw_only=True)
class Candidate:
    """One model of the engine's bank in training. A run trains one; a sweep trains several together.

    `name` is empty if there is only one candidate. `pause` is the step to stop after, if it is not the last. `scaler`
    scales the loss in float16 mixed precision, and is None otherwise. `failure` is the reason why the candidate was
    given up. `inputs` are the fingerprints that its checkpoints keep. `notes` are remarks on the checkpoint that it
    continues from. `average` has the averages of the trainable parameters by name, and is empty without `training.ema`.
    `start_clock` sets `started`.
    """

    name: str
    model: Any
    data: EncodedTask
    training: TrainingConfig
    seed: int
    folder: Path
    optimizer: Optimizer
    scheduler: LRScheduler
    progress: Progress
    pause: int | None = None
    scaler: torch.amp.GradScaler | None = None
    failure: str | None = None
    order: Iterator[list[int]] | None = None
    inputs: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    teacher: Teacher | None = None
    started: tuple[float, float] = (0.0, 0.0)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters; of a sharded weight only the rows that this process holds."""
        moved = (p for group in self.optimizer.param_groups for p in group["params"])
        parts = {p.of: p for p in moved if isinstance(p, Part)}
        return [parts.get(p, p) for p in self.model.parameters() if p.requires_grad]

    @property
    def dropouts(self) -> list[nn.Module]:
        """The modules that PEFT has added and whose mode matters in a step: dropouts, masks, and LSTMs.

        The base model's own dropout stays off. cuDNN has no backward pass of an LSTM in evaluation mode.
        """
        return [
            module
            for name, module in self.model.named_modules()
            if ("lora_dropout" in name or "prompt_encoder" in name)
            and isinstance(module, (nn.Dropout, TrainingMask, nn.LSTM))
        ]

    @property
    def finished(self) -> bool:
        """Whether no step is left before the next pause or the end."""
        return bool(self.failure) or self.progress.step >= self.target or self.patience_spent

    @property
    def target(self) -> int:
        """The step to stop after."""
        return self.training.steps if self.pause is None else min(self.pause, self.training.steps)

    @property
    def patience_spent(self) -> bool:
        """Whether too many validations have brought no gain."""
        patience = self.training.patience
        return patience is not None and self.progress.validations_without_gain >= patience

    @property
    def validation_due(self) -> bool:
        """Whether this step must still be validated: a run may have stopped between step and validation."""
        progress, training = self.progress, self.training
        at = progress.step % training.eval_every == 0 or progress.step in (self.pause, training.steps)
        return at and not self.failure and not (progress.history and "validation_loss" in progress.history[-1])

    def start_clock(self) -> None:
        """Count the seconds of training from now on, in addition to those before a resume."""
        progress = self.progress
        self.started = time.perf_counter() - progress.seconds, time.process_time() - progress.cpu_seconds

    def rows(self) -> list[Document]:
        """Return the documents of the next step."""
        if self.order is None:
            self.order = batch_order(len(self.data.train), self.training.batch_size, self.seed)
            for _ in range(self.progress.step):
                next(self.order)
        numbers = next(self.order)
        documents = [self.data.train[i].document for i in numbers]
        return self.teacher.lessons(documents, numbers) if self.teacher else documents

    def record_update(self, loss: float, rows: Sequence[Document]) -> None:
        """Record a step on these rows with its learning rate, and set the rate of the next step.

        If the loss, or the norm of the gradient, is not finite, set `failure` instead.
        """
        progress = self.progress
        if not math.isfinite(loss):
            again = f", after training had gone back to step {r[-1]['to']}" if (r := progress.rollbacks) else ""
            self.failure = (
                f"the loss or its gradient became {loss} at step {progress.step + 1}{again}; the state of step "
                f"{self.last_saved} is kept in {self.folder}. "
                f"Lower training.learning_rate ({self.training.learning_rate})"
            )
            return
        progress.step += 1
        add_to_average(self.average, self.model, self.training.ema, progress.step)
        progress.seconds = time.perf_counter() - self.started[0]
        progress.cpu_seconds = time.process_time() - self.started[1]
        progress.tokens += sum(len(d.input_ids) for d in rows)
        rate = float(self.optimizer.param_groups[0]["lr"])
        progress.history.append({"step": progress.step, "loss": loss, "lr": rate})
        self.scheduler.step()

    def record_validation(self, values: dict[str, float], score: float) -> None:
        """Record a validation. The largest finite `score` is the best."""
        progress = self.progress
        best = progress.best_value
        if math.isfinite(score) and (best is None or not math.isfinite(best) or score > best):
            progress.best_value, progress.best_step, progress.validations_without_gain = score, progress.step, 0
        else:
            progress.validations_without_gain += 1
        progress.history.append({"step": progress.step, **values})

    @property
    def may_roll_back(self) -> bool:
        """Whether the candidate is given up, and `training.on_nan` allows it to go back to an earlier state."""
        return self.failure is not None and self.training.on_nan != "stop" and not self.progress.rollbacks

    def roll_back(self) -> str | None:
        """Go back to the newest checkpoint with a finite validation, and continue with a smaller learning rate.

        Time and tokens stay counted. The history becomes the checkpoint's. A run that is killed before its next
        checkpoint thus reaches the same step, fails there in the same way, and goes back again.

        Returns:
            The line to print; None if there is no such checkpoint, and the candidate stays given up.

        Raises:
            UserError: as `load_checkpoint`.
        """
        assert self.training.on_nan != "stop"
        spent, factor = self.progress, self.training.on_nan
        restored = load_checkpoint(
            self.folder,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            inputs=self.inputs,
            average=self.average,
            finite=True,
        )
        if restored is None:
            return None
        self.progress, self.failure, self.order = restored.progress, None, None
        back = {"step": spent.step + 1, "to": self.progress.step, "factor": factor}
        self.progress.rollbacks.append(back)
        self.progress.seconds, self.progress.cpu_seconds = spent.seconds, spent.cpu_seconds
        self.progress.tokens = spent.tokens
        # Both are part of a checkpoint, so that a resumed run keeps the smaller rate.
        self.scheduler.base_lrs = [rate * factor for rate in self.scheduler.base_lrs]
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
            group["initial_lr"] *= factor
        return (
            f"the loss or its gradient was not finite at step {back['step']}; continuing from step {back['to']} with "
            f"{factor:g} times the learning rate"
        )

    def forget_later(self) -> None:
        """Delete the checkpoints after the step that the training has gone back to."""
        forget_later(self.folder, self.progress.step)

    def save(self, write: bool = True) -> None:
        """Save a checkpoint; other processes call this without `write`, because they hold parts of the checkpoint."""
        save_checkpoint(
            self.folder,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            progress=self.progress,
            inputs=self.inputs,
            average=self.average,
            write=write,
        )

    def take_best(self) -> None:
        """Load the best checkpoint's values; set `failure` if no validation was finite, because no best one exists."""
        if self.failure:
            return
        if self.progress.best_value is not None:
            load_best(self.folder, self.model, self.progress.best_step)
            return
        self.failure = (
            f"no validation gave a finite number, so that no checkpoint in {self.folder} is the best; "
            "look at the validation losses, and at model.dtype"
        )

    @property
    def last_saved(self) -> int:
        """The step of the newest checkpoint; 0 without one."""
        return max(checkpoint_folders(self.folder), default=0)


def make_candidate(
    engine: Engine,
    index: int,
    *,
    data: EncodedTask,
    training: TrainingConfig,
    seed: int,
    folder: Path,
    name: str = "",
    pause: int | None = None,
    inputs: dict[str, Any] | None = None,
    teacher: Teacher | None = None,
) -> Candidate:
    """Return number `index` of the engine's bank, ready to train or to continue from its newest checkpoint.

    The documents of `data` have the number of its soft prompt. `folder` gets its checkpoints. `inputs` are the
    fingerprints from `fingerprints.inputs_of`.

    Raises:
        UserError: no parameter requires a gradient; as `load_checkpoint`.
    """
    model = engine.bank[index]
    optimizer = make_optimizer(model, training)
    # Accelerate does not get the schedule, because it would step it once per process.
    # The `constant` of transformers ignores a warm-up.
    schedule = "constant_with_warmup" if training.schedule == "constant" else training.schedule
    scheduler = get_scheduler(schedule, optimizer, training.warmup_steps, training.steps)
    average = new_average(model) if training.ema else {}
    restored = load_checkpoint(
        folder, model=model, optimizer=optimizer, scheduler=scheduler, inputs=inputs, average=average
    )
    return Candidate(
        name=name,
        model=model,
        data=data,
        training=training,
        seed=seed,
        folder=folder,
        optimizer=optimizer,
        scheduler=scheduler,
        progress=restored.progress if restored else Progress(),
        pause=pause,
        inputs=inputs,
        notes=restored.notes if restored else [],
        average=average,
        teacher=teacher,
    )


def loss_scaler(accelerator: Accelerator, progress: Progress) -> torch.amp.GradScaler | None:
    """Return a copy of accelerate's loss scaler at the present scale of the training; None if none is needed."""
    if accelerator.scaler is None:
        return None
    scaler: torch.amp.GradScaler = copy.deepcopy(accelerator.scaler)
    if progress.loss_scale is not None:
        scaler.load_state_dict(progress.loss_scale)
    return scaler


def batch_order(rows: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield the row indices of step 0, 1, 2, ... without end, with a new permutation in every epoch.

    A batch may span two epochs, so every batch is full. The order depends only on the arguments. A resumed run thus
    skips to its step, and all processes have the same order without communication.
    """
    generator = torch.Generator().manual_seed(seed)
    pending: list[int] = []
    while True:
        while len(pending) < batch_size:
            pending.extend(torch.randperm(rows, generator=generator).tolist())
        yield pending[:batch_size]
        pending = pending[batch_size:]
