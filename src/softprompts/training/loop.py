"""The one training loop: update, validate, keep the best, stop, resume; for one candidate or for several at once."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from softprompts.config.sections import EvaluationConfig, TrainingConfig
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.evaluation.predict import answers_and_targets, predict
from softprompts.metrics.scoring import compute_metrics, load_metrics, reported
from softprompts.runs.fingerprints import inputs_of
from softprompts.runs.record import Progress
from softprompts.runs.run import Run
from softprompts.tasks.checks import warn_of_scored_rows
from softprompts.tasks.documents import EncodedTask
from softprompts.tasks.targets import warn_of_cut_targets
from softprompts.training.energy import energy_meter
from softprompts.training.state import Candidate, check_training, loss_scaler, make_candidate
from softprompts.training.step import update

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm


def train(
    engine: Engine,
    data: EncodedTask,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    run: Run,
    stage: str = "",
) -> Progress:
    """Train what requires a gradient in `engine.model` and leave it at its best checkpoint.

    A recipe that trains in stages names the later ones: each has checkpoints of its own.

    The loss of an update is the mean over the target tokens of its `batch_size` rows, however they are shared out
    over micro-batches and processes.

    Raises:
        UserError: settings that do not fit together; nothing receives a gradient, or the base does; a loss that is
            not finite; a full disk; full memory; a checkpoint of other data or another base model.
        SystemExit: with code 128 + signal, after SIGINT or SIGTERM, the checkpoint saved.
    """
    metrics = load_metrics(data.task.metrics, data.task.schema)
    check_training(training, run.accelerator, reported(metrics, data.train[0].row.target), len(data.train))
    inputs = inputs_of(data, engine.model)
    candidate = make_candidate(engine, 0, data, training, run.seed, run.checkpoints / stage, stage, inputs)
    begun = candidate.progress.step
    if not stage:
        warn_of_scored_rows("training.eval_rows", data.validation, training.eval_rows)
        warn_of_cut_targets(data, engine.tokenizer, evaluation.max_new_tokens, evaluation.stop)
    with energy_meter(training.energy) as meter:
        train_side_by_side(engine, [candidate], evaluation, run)
    candidate.progress.energy_kwh = None if begun else meter.kwh
    return candidate.progress


def train_side_by_side(engine: Engine, candidates: Sequence[Candidate], evaluation: EvaluationConfig, run: Run) -> None:
    """Train all candidates in the same forward passes and leave each at its best checkpoint.

    Each has its own rows, loss, optimizer, schedule, loss scale and checkpoints: without dropout it moves as it would
    alone, up to rounding. One whose loss is not finite any more, or none of whose validations was, is given up with a
    `failure`; the others go on.

    Raises:
        UserError, SystemExit: as `train`; a loss that is not finite where no other candidate is left.
    """
    accelerator = run.accelerator
    task = candidates[0].data.task
    metrics = load_metrics(task.metrics, task.schema)
    # The engine alone: optimizers that accelerate prepares share one loss scaler, which unscales the gradients of all
    # for each of them, those of an earlier stage included.
    wrapped = accelerator.prepare(engine)
    for candidate in candidates:
        candidate.scaler = loss_scaler(accelerator, candidate.progress)
    begun = max(c.progress.step for c in candidates)
    for text in dict.fromkeys(note for c in candidates for note in c.notes):
        run.say(text)
    if begun:
        run.say(f"resuming at step {begun} of {max(c.training.steps for c in candidates)}")
    bar = tqdm(
        total=sum(c.training.steps for c in candidates),
        initial=sum(c.progress.step for c in candidates),
        desc="training",
        unit="step",
        disable=not accelerator.is_local_main_process,
    )

    def note(candidate: Candidate, text: str) -> None:
        """Write a line above the bar: a disabled bar of another process would write it again."""
        if accelerator.is_local_main_process:
            bar.write(f"{candidate.name}  {text}" if candidate.name else text)

    def log(candidate: Candidate, values: dict[str, float]) -> None:
        prefix = f"{candidate.name}/" if candidate.name else ""
        accelerator.log({f"{prefix}{k}": v for k, v in values.items()}, step=candidate.progress.step)

    def validate(candidate: Candidate) -> None:
        """Validate, remember the best, save a checkpoint."""
        by, progress = candidate.training.best_by, candidate.progress
        rows = candidate.data.validation[: candidate.training.eval_rows]
        outcome = predict(engine, rows, evaluation, accelerator, "validating", answer_open=by != "loss")
        values = {"validation_loss": outcome.loss}
        if rows[0].choices or by != "loss":
            numbers = compute_metrics(metrics, *answers_and_targets(outcome.predictions))
            values |= {f"validation_{k}": v for k, v in numbers.items()}
        # Scores that are not numbers make the answers meaningless, too, whatever metric they are given.
        chosen_by = values[f"validation_{by}"] if by != "loss" else -outcome.loss
        candidate.record({"step": progress.step, **values}, chosen_by if math.isfinite(outcome.loss) else math.nan)
        log(candidate, values)
        note(candidate, "  ".join([f"step {progress.step:4d}"] + [f"{k} {v:.4f}" for k, v in values.items()]))
        save(candidate)

    def save(candidate: Candidate) -> None:
        error: list[Exception | None] = [None]
        if accelerator.is_main_process:
            try:
                candidate.save()
            except UserError as full:
                error[0] = full
        broadcast_object_list(error)  # one that went on alone would wait for the others for ever
        if error[0]:
            raise error[0]

    def keep(candidate: Candidate, loss: float) -> None:
        """Write an update down, or give the candidate up."""
        progress = candidate.progress
        if not math.isfinite(loss):
            candidate.failure = (
                f"the loss or its gradient became {loss} at step {progress.step + 1}; the state of step "
                f"{candidate.last_saved} is kept in {candidate.folder}. "
                f"Lower training.learning_rate ({candidate.training.learning_rate})"
            )
            if all(c.failure for c in candidates):
                raise UserError(candidate.failure)
            note(candidate, f"given up: {candidate.failure}")
            return
        progress.step += 1
        progress.seconds = time.perf_counter() - started[id(candidate)]
        progress.cpu_seconds = time.process_time() - cpu_started[id(candidate)]
        values = {"loss": loss, "lr": float(candidate.scheduler.get_last_lr()[0])}
        progress.history.append({"step": progress.step, **values})
        log(candidate, values)
        bar.update()

    def stop() -> NoReturn:
        number = received[0] if received else signal.SIGTERM
        step = max(c.progress.step for c in candidates)
        run.say(f"\nstopped by {signal.Signals(number).name} at step {step}; go on with --resume")
        raise SystemExit(128 + number)

    with stop_signal() as received, bar:  # closes the bar's line before an error is printed
        started = {id(c): time.perf_counter() - c.progress.seconds for c in candidates}
        cpu_started = {id(c): time.process_time() - c.progress.cpu_seconds for c in candidates}
        for candidate in candidates:
            if candidate.validation_due:
                validate(candidate)
        while active := [c for c in candidates if not c.finished]:
            batches = [(candidate, candidate.rows()) for candidate in active]
            losses = update(wrapped, batches, accelerator)
            for (candidate, rows), loss in zip(batches, losses, strict=True):
                keep(candidate, loss)
                candidate.progress.tokens += 0 if candidate.failure else sum(len(d.input_ids) for d in rows)
            bar.set_postfix(loss=f"{min(filter(math.isfinite, losses), default=math.nan):.4f}")
            going = [c for c in active if not c.failure]
            if _any_process(bool(received), accelerator):
                for candidate in going:
                    save(candidate)
                stop()
            for candidate in going:
                if candidate.validation_due:
                    validate(candidate)
                    if candidate.patience_spent and candidate.progress.step < candidate.training.steps:
                        note(candidate, f"stopped early: no gain in {candidate.training.patience} validations")
        if _any_process(bool(received), accelerator):  # during the last validation, which has saved
            stop()
    for candidate in candidates:
        if not candidate.failure and candidate.progress.best_value is None:
            candidate.failure = (
                f"no validation gave a finite number, so that no checkpoint in {candidate.folder} is the best; "
                "look at the validation losses, and at model.dtype"
            )
            note(candidate, f"given up: {candidate.failure}")
    if all(c.failure for c in candidates):
        raise UserError(str(candidates[-1].failure))
    for candidate in candidates:
        if not candidate.failure:
            candidate.take_best()


@contextmanager
def stop_signal() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying; a second signal kills as usual."""
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    previous: dict[signal.Signals, Any] = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
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
