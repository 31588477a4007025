"""The one training loop: update, validate, keep the best, stop, resume; for one candidate or for several at once."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence

from softprompts.config.sections import EvaluationConfig, TrainingConfig
from softprompts.engine.forward import Engine
from softprompts.errors import Interrupted, UserError
from softprompts.evaluation.predict import answers_and_targets, predict
from softprompts.metrics.scoring import Metric, compute_metrics, load_metrics, reported
from softprompts.runs.fingerprints import inputs_of
from softprompts.runs.record import Progress
from softprompts.runs.run import Run
from softprompts.system.signals import signals_caught
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
    *,
    stage: str = "",
) -> Progress:
    """Train what requires a gradient in `engine.model` and leave it at its best checkpoint.

    A recipe that trains in stages names the later ones: each has checkpoints of its own.

    The loss of an update is the mean over the target tokens of its `batch_size` rows, however they are shared out
    over micro-batches and processes.

    Raises:
        UserError: settings that do not fit together; nothing receives a gradient, or the base does; a loss that is
            not finite; a full disk; full memory; a checkpoint of other data or another base model.
        Interrupted: after SIGINT or SIGTERM, the checkpoint saved.
    """
    metrics = load_metrics(data.task.metrics, data.task.schema)
    check_training(training, run.accelerator, reported(metrics, data.train[0].row.target), len(data.train))
    inputs = inputs_of(data, engine.model)
    candidate = make_candidate(
        engine, 0, data, training, seed=run.seed, folder=run.checkpoints / stage, name=stage, inputs=inputs
    )
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
    `failure`; the others continue.

    Raises:
        UserError, Interrupted: as `train`; a loss that is not finite if no other candidate is left.
    """
    training = SideBySide(engine, candidates, evaluation, run)
    training.announce()
    with signals_caught() as received, training.bar:  # closes the bar's line before an error is printed
        for candidate in candidates:
            candidate.start_clock()
        training.validate_where_due(candidates)
        while active := [c for c in candidates if not c.finished]:
            trained = training.update(active)
            if _any_process(bool(received), run.accelerator):
                for candidate in trained:
                    save(candidate, run.accelerator)
                raise _interrupted(candidates, received)
            training.validate_where_due(trained)
        if _any_process(bool(received), run.accelerator):  # during the last validation, which has saved
            raise _interrupted(candidates, received)
    training.take_best()


class SideBySide:
    """Candidates in training, and what they share: forward passes, metrics, a bar of progress, the log."""

    def __init__(self, engine: Engine, candidates: Sequence[Candidate], evaluation: EvaluationConfig, run: Run) -> None:
        self.engine, self.candidates, self.evaluation, self.run = engine, candidates, evaluation, run
        task = candidates[0].data.task
        self.metrics = load_metrics(task.metrics, task.schema)
        # The engine alone: optimizers that accelerate prepares share one loss scaler, which unscales the gradients of
        # all for each of them, those of an earlier stage included.
        self.wrapped = run.accelerator.prepare(engine)
        for candidate in candidates:
            candidate.scaler = loss_scaler(run.accelerator, candidate.progress)
        self.bar = tqdm(
            total=sum(c.training.steps for c in candidates),
            initial=sum(c.progress.step for c in candidates),
            desc="training",
            unit="step",
            disable=not run.accelerator.is_local_main_process,
        )

    def announce(self) -> None:
        """Log the notes of the loaded checkpoints, and the step from which training continues."""
        for text in dict.fromkeys(note for c in self.candidates for note in c.notes):
            self.run.say(text)
        if begun := max(c.progress.step for c in self.candidates):
            self.run.say(f"resuming at step {begun} of {max(c.training.steps for c in self.candidates)}")

    def note(self, candidate: Candidate, text: str) -> None:
        """Log a line about one candidate."""
        self.run.say(f"{candidate.name}  {text}" if candidate.name else text)

    def track(self, candidate: Candidate, values: dict[str, float]) -> None:
        """Hand values of one candidate to the trackers."""
        prefix = f"{candidate.name}/" if candidate.name else ""
        self.run.accelerator.log({f"{prefix}{k}": v for k, v in values.items()}, step=candidate.progress.step)

    def update(self, active: Sequence[Candidate]) -> list[Candidate]:
        """Make one update of each active candidate; return those that have not failed."""
        batches = [(candidate, candidate.rows()) for candidate in active]
        losses = update(self.wrapped, batches, self.run.accelerator)
        for (candidate, rows), loss in zip(batches, losses, strict=True):
            if math.isfinite(loss):
                self.track(candidate, candidate.count_step(loss, sum(len(d.input_ids) for d in rows)))
                self.bar.update()
            else:
                self.give_up(candidate, loss)
        self.bar.set_postfix(loss=f"{min(filter(math.isfinite, losses), default=math.nan):.4f}")
        return [c for c in active if not c.failure]

    def give_up(self, candidate: Candidate, loss: float) -> None:
        """Mark a candidate as failed.

        Raises:
            UserError: no other candidate is left.
        """
        candidate.failure = (
            f"the loss or its gradient became {loss} at step {candidate.progress.step + 1}; the state of step "
            f"{candidate.last_saved} is kept in {candidate.folder}. "
            f"Lower training.learning_rate ({candidate.training.learning_rate})"
        )
        if all(c.failure for c in self.candidates):
            raise UserError(candidate.failure)
        self.note(candidate, f"given up: {candidate.failure}")

    def validate_where_due(self, candidates: Sequence[Candidate]) -> None:
        """Validate those candidates that have reached a validation, and save a checkpoint of each."""
        for candidate in candidates:
            if candidate.validation_due:
                values = validate(self.engine, candidate, self.metrics, self.evaluation, self.run.accelerator)
                self.track(candidate, values)
                step = candidate.progress.step
                self.note(candidate, "  ".join([f"step {step:4d}"] + [f"{k} {v:.4f}" for k, v in values.items()]))
                save(candidate, self.run.accelerator)
                if candidate.patience_spent and step < candidate.training.steps:
                    self.note(candidate, f"stopped early: no gain in {candidate.training.patience} validations")

    def take_best(self) -> None:
        """Leave each candidate at its best checkpoint; one that has none is given up.

        Raises:
            UserError: all candidates have failed.
        """
        for candidate in self.candidates:
            if not candidate.failure and candidate.progress.best_value is None:
                candidate.failure = (
                    f"no validation gave a finite number, so that no checkpoint in {candidate.folder} is the best; "
                    "look at the validation losses, and at model.dtype"
                )
                self.note(candidate, f"given up: {candidate.failure}")
        if all(c.failure for c in self.candidates):
            raise UserError(str(self.candidates[-1].failure))
        for candidate in self.candidates:
            if not candidate.failure:
                candidate.take_best()


def validate(
    engine: Engine,
    candidate: Candidate,
    metrics: dict[str, Metric],
    evaluation: EvaluationConfig,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Score a candidate on its validation rows and record the result; return the numbers."""
    by = candidate.training.best_by
    rows = candidate.data.validation[: candidate.training.eval_rows]
    outcome = predict(engine, rows, evaluation, accelerator, "validating", answer_open=by != "loss")
    values = {"validation_loss": outcome.loss}
    if rows[0].choices or by != "loss":
        numbers = compute_metrics(metrics, *answers_and_targets(outcome.predictions))
        values |= {f"validation_{k}": v for k, v in numbers.items()}
    # Scores that are not numbers make the answers meaningless, too, whatever metric they are given.
    chosen_by = values[f"validation_{by}"] if by != "loss" else -outcome.loss
    entry = {"step": candidate.progress.step, **values}
    candidate.record(entry, chosen_by if math.isfinite(outcome.loss) else math.nan)
    return values


def save(candidate: Candidate, accelerator: Accelerator) -> None:
    """Save a checkpoint in one process; an error is raised in all, as one that continued would wait for the others.

    Raises:
        UserError: as `save_checkpoint`.
    """
    error: list[Exception | None] = [None]
    if accelerator.is_main_process:
        try:
            candidate.save()
        except UserError as full:
            error[0] = full
    broadcast_object_list(error)
    if error[0]:
        raise error[0]


def _interrupted(candidates: Sequence[Candidate], received: Sequence[int]) -> Interrupted:
    number = received[0] if received else signal.SIGTERM  # another process has received it
    step = max(c.progress.step for c in candidates)
    return Interrupted(f"stopped by {signal.Signals(number).name} at step {step}; go on with --resume", number)


def _any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Agree: processes that do not stop together would wait for each other for ever."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum").item())
