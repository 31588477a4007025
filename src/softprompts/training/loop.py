"""The training loop: step, validate, keep the best, stop and resume, for one candidate or for several at once."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from softprompts.config.sections import EvaluationConfig, TrainingConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.encoding.targets import warn_of_cut_targets
from softprompts.engine.forward import Engine
from softprompts.errors import Interrupted, UserError
from softprompts.evaluation.predict import answers_and_targets, check_abstention, predict
from softprompts.metrics.scoring import TRIED, Metric, compute_metrics, load_metrics, reported
from softprompts.models.sharding.layers import alike
from softprompts.models.sharding.tensors import any_sharded
from softprompts.runs.energy import energy_meter
from softprompts.runs.fingerprints import inputs_of
from softprompts.runs.record import Progress
from softprompts.runs.run import Run
from softprompts.system.processes import tell_step
from softprompts.system.signals import collected_signals
from softprompts.tasks.checks import warn_of_scored_rows
from softprompts.training.averaging import averaged
from softprompts.training.checks import check_training
from softprompts.training.log import TrainingLog, training_log
from softprompts.training.state import Candidate, loss_scaler, make_candidate
from softprompts.training.step import update
from softprompts.training.teacher import load_teacher

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list


def train(
    engine: Engine,
    data: EncodedTask,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    run: Run,
    *,
    stage: str = "",
) -> Progress:
    """Train the parameters of `engine.model` that require a gradient, and load the best checkpoint at the end.

    A recipe that trains in stages names the later stages, because each has its own checkpoints.

    The loss of a step is the mean over the target tokens of its `batch_size` rows; micro-batches and processes do not
    change it.

    Raises:
        UserError: settings do not fit together; no parameter receives a gradient, or the base model does; the loss is
            not finite; disk or memory is full; a checkpoint is from other data or another base model.
        Interrupted: SIGINT or SIGTERM arrived, and the checkpoint is saved.
    """
    metrics = load_metrics(data.task.metrics, data.task.schema, data.task.metric_data)
    names = reported(metrics, [example.row.target for example in data.train[:TRIED]])
    check_training(training, run.accelerator, names, len(data.train))
    teacher = load_teacher(engine, data, training, seed=run.seed, say=run.say)
    if teacher and teacher.shown:
        run.say(
            f"training.teacher_context: {len(teacher.shown)} of {len(data.train)} rows of train are its examples; they "
            "are trained on their targets alone"
        )
    inputs = inputs_of(data, engine.model) | ({"teacher": teacher.fingerprint} if teacher else {})
    candidate = make_candidate(
        engine,
        0,
        data=data,
        training=training,
        seed=run.seed,
        folder=run.checkpoints / stage,
        name=stage,
        inputs=inputs,
        teacher=teacher,
    )
    begun = candidate.progress.step
    say_start([candidate], run)
    if not stage:
        warn_of_scored_rows("training.eval_rows", data.validation, training.eval_rows)
        warn_of_cut_targets(data, engine.tokenizer, evaluation.max_new_tokens, evaluation.stop)
    with energy_meter(training.energy) as meter:
        train_side_by_side(engine, [candidate], evaluation, run)
    candidate.take_best()
    if candidate.failure:
        raise UserError(candidate.failure)
    candidate.progress.energy_kwh = None if begun else meter.kwh
    return candidate.progress


def train_side_by_side(engine: Engine, candidates: Sequence[Candidate], evaluation: EvaluationConfig, run: Run) -> None:
    """Train all candidates in the same forward passes, each to its last step or to its pause.

    Each has its own rows, loss, optimizer, schedule, loss scale and checkpoints. Without dropout it trains as it would
    alone, up to rounding. A candidate whose loss is no longer finite is given up with a `failure`, and the others
    continue. Each candidate ends at its last step, validated and saved.

    Raises:
        UserError, Interrupted: as `train`, except for a loss that is not finite.
    """
    accelerator = run.accelerator
    task = candidates[0].data.task
    check_abstention(task.choices, evaluation)
    metrics = load_metrics(task.metrics, task.schema, task.metric_data)
    wrapped = _wrapped(engine, accelerator)
    for candidate in candidates:
        candidate.scaler = loss_scaler(accelerator, candidate.progress)
        candidate.start_clock()
    with collected_signals() as received, training_log(candidates, accelerator) as log:
        while True:
            for candidate in [c for c in candidates if c.validation_due]:
                try:
                    validate(candidate, engine, metrics, evaluation, accelerator)
                except Interrupted:  # a resumed run validates this step again
                    save_all(candidates, accelerator)
                    stop(received, candidates)
                log.validation(candidate)
                save(candidate, accelerator)
            active = [c for c in candidates if not c.finished]
            if not active:
                break
            tell_step(max(c.progress.step for c in active) + 1)
            batches = [(candidate, candidate.rows()) for candidate in active]
            losses = update(wrapped, batches, accelerator)
            for (candidate, rows), loss in zip(batches, losses, strict=True):
                candidate.record_update(loss, rows)
            broken = [c.may_roll_back for c in active]
            for candidate in (c for c, back in zip(active, broken, strict=True) if back):
                roll_back(candidate, accelerator, log)
            log.update([c for c, back in zip(active, broken, strict=True) if not back])
            if any_process(bool(received), accelerator):
                save_all(active, accelerator)
                break
        if any_process(bool(received), accelerator):  # all candidates are saved, some by the last validation
            stop(received, candidates)


def _wrapped(engine: Engine, accelerator: Accelerator) -> Any:
    """Return the engine, prepared for training in several processes."""
    if engine.sharded:
        alike(p for p in engine.parameters() if p.requires_grad and not any_sharded([p]))
        return engine
    # Accelerate prepares only the engine. If it also prepared the optimizers, they would share one loss scaler, which
    # unscales all their gradients once for each optimizer, including those of an earlier stage.
    return accelerator.prepare(engine)


def say_start(candidates: Sequence[Candidate], run: Run) -> None:
    """Print the remarks on the checkpoints, and the step at which training continues."""
    for text in dict.fromkeys(note for c in candidates for note in c.notes):
        run.say(text)
    if begun := max(c.progress.step for c in candidates):
        run.say(f"resuming at step {begun} of {max(c.training.steps for c in candidates)}")


def validate(
    candidate: Candidate,
    engine: Engine,
    metrics: dict[str, Metric],
    evaluation: EvaluationConfig,
    accelerator: Accelerator,
) -> None:
    """Score a candidate, with its averages if it has any, on validation, and record `validation_...` numbers."""
    by = candidate.training.best_by
    rows = candidate.data.validation[: candidate.training.eval_rows]
    with averaged(candidate.model, candidate.average):
        outcome = predict(engine, rows, evaluation, accelerator, "validating", answer_open=by != "loss")
    values = {"validation_loss": outcome.loss}
    if rows[0].choices or by != "loss":
        numbers = compute_metrics(metrics, *answers_and_targets(outcome.predictions))
        values |= {f"validation_{k}": v for k, v in numbers.items()}
    score = values[f"validation_{by}"] if by != "loss" else -outcome.loss
    # If the loss is not a number, the predictions mean nothing, and their metric must not count.
    candidate.record_validation(values, score if math.isfinite(outcome.loss) else math.nan)


def save(candidate: Candidate, accelerator: Accelerator) -> None:
    """Save a checkpoint, which the main process writes; all processes raise the main process's error.

    Raises:
        UserError: as `save_checkpoint`.
    """
    _agreed(lambda: candidate.save(write=accelerator.is_main_process))


def roll_back(candidate: Candidate, accelerator: Accelerator, log: TrainingLog) -> None:
    """Let a candidate go back to its last good state in all processes, and report this or that there is none.

    Raises:
        UserError: as `load_checkpoint`; the folder cannot be written.
    """
    at, text = candidate.progress.step, candidate.roll_back()
    if text is None:
        log.failure(candidate)
        return
    # A new one: the last step unscaled the gradients and ended before the scaler's `update`.
    candidate.scaler = loss_scaler(accelerator, candidate.progress)
    accelerator.wait_for_everyone()  # until all have read
    _agreed(candidate.forget_later if accelerator.is_main_process else lambda: None)
    log.rolled_back(candidate, at, text)


def _agreed(action: Callable[[], object]) -> None:
    """Run an action in every process; all processes raise the `UserError` of the main process."""
    error: list[Exception | None] = [None]
    try:
        action()
    except UserError as full:
        error[0] = full
    broadcast_object_list(error)  # a process that continued alone would wait for the others for ever
    if error[0]:
        raise error[0]


def save_all(candidates: Sequence[Candidate], accelerator: Accelerator) -> None:
    """Save a checkpoint of every candidate that is not given up, with `save`."""
    for candidate in candidates:
        if not candidate.failure:
            save(candidate, accelerator)


def stop(received: Sequence[int], candidates: Sequence[Candidate]) -> NoReturn:
    """Raise `Interrupted` after a signal, which another process may have received."""
    number = received[0] if received else signal.SIGTERM
    step = max(c.progress.step for c in candidates)
    raise Interrupted(f"stopped by {signal.Signals(number).name} at step {step}; continue with --resume", number)


def any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Return whether any process has the flag: processes must stop together, or they wait for each other for ever."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum").item())
