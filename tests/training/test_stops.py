"""How training ends before its last step: signals, losses that are not finite, patience, a full disk."""

from __future__ import annotations

import errno
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import Build, run_training
from softprompts.checkpoints import files as checkpoints
from softprompts.config.sections import EvaluationConfig, TrainingConfig
from softprompts.engine.forward import Scores
from softprompts.errors import Interrupted, UserError
from softprompts.evaluation import predict as predict_module
from softprompts.evaluation.predict import Outcome, predict
from softprompts.runs.record import Progress
from softprompts.training import loop as training_module
from softprompts.training.state import make_candidate

import pytest
import torch
from safetensors.torch import load_file


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 2, 4, 6])
def test_a_signal_saves_and_a_resumed_run_equals_an_uninterrupted_one(
    make: Build, step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"steps": 6, "eval_every": 2, "patience": 5, "mode": "stock"}  # noise would spoil the check of packed
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    parts, calls = make(**settings), []
    original, nll = training_module.update, Scores.nll
    # Noise, as dropout would be: every update has to find the generator in the same state.
    monkeypatch.setattr(
        Scores, "nll", lambda scores: nll(scores) * (torch.rand(()) if scores.logits.requires_grad else 1)
    )

    def interrupted(*arguments: Any, **more: Any) -> float:
        calls.append(0)
        if len(calls) == step:
            signal.raise_signal(number)
        return original(*arguments, **more)

    monkeypatch.setattr(training_module, "update", interrupted)
    with pytest.raises(Interrupted) as stopped:
        run_training(parts)
    monkeypatch.setattr(training_module, "update", original)
    assert stopped.value.signal == number
    assert len(calls) == step, "the step under way is finished, and no other begins"
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed, fresh = make(resume=True, **settings), make("fresh", **settings)
    ours, theirs = run_training(resumed), run_training(fresh)
    assert ours.history == theirs.history
    assert (ours.best_step, ours.validations_without_gain) == (theirs.best_step, theirs.validations_without_gain)
    assert torch.equal(resumed.prompt(), fresh.prompt())


def test_a_signal_during_the_last_validation_stops_before_the_test(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make(steps=2, eval_every=2)

    def interrupted(*arguments: Any, **more: Any) -> Outcome:
        if list(parts.run.checkpoints.glob("step-*")):
            signal.raise_signal(signal.SIGTERM)
        return predict(*arguments, **more)

    monkeypatch.setattr(training_module, "predict", interrupted)
    with pytest.raises(Interrupted) as stopped:
        run_training(parts)
    assert stopped.value.signal == signal.SIGTERM
    assert (parts.run.checkpoints / "step-000002").is_dir()


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_signal_ends_a_validation_between_two_batches_and_a_resumed_run_makes_it_again(
    make: Build, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"steps": 4, "eval_every": 2}
    monkeypatch.setattr(EvaluationConfig, "__post_init__", lambda config: setattr(config, "batch_size", 4))
    parts, batches = make(**settings), []  # four batches a validation
    original = predict_module._answer

    def interrupted(*arguments: Any, **more: Any) -> Any:
        batches.append(0)
        if len(batches) == place * 2 + 2:
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments, **more)

    monkeypatch.setattr(predict_module, "_answer", interrupted)
    with pytest.raises(Interrupted, match=rf"^stopped by SIGTERM at step {place}; continue with --resume$"):
        run_training(parts)
    monkeypatch.setattr(predict_module, "_answer", original)
    assert len(batches) == place * 2 + 2, "no batch begins after the signal"
    resumed, fresh = make(resume=True, **settings), make("fresh", **settings)
    assert run_training(resumed).history == run_training(fresh).history
    assert torch.equal(resumed.prompt(), fresh.prompt())


def test_a_signal_ends_the_test_between_two_batches(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, batches = make(), []
    parts.evaluation.batch_size = 4
    original = predict_module._answer

    def interrupted(*arguments: Any, **more: Any) -> Any:
        batches.append(0)
        if len(batches) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **more)

    monkeypatch.setattr(predict_module, "_answer", interrupted)
    given = parts.engine, parts.data, parts.evaluation, parts.run.accelerator
    with pytest.raises(Interrupted, match=r"^stopped by SIGINT while testing; continue with --resume$") as stopped:
        predict_module.evaluate_test(*given)
    assert stopped.value.signal == signal.SIGINT
    assert len(batches) == 2
    assert predict_module.evaluate_test(*given).predictions, "the next scoring is whole"


def poisoned(updates: Sequence[int]) -> Callable[..., list[float]]:
    """Return an `update` before some of whose calls the soft prompt becomes NaN, as broken memory would make it."""
    original, calls = training_module.update, []

    def update(wrapped: Any, batches: Any, accelerator: Any) -> list[float]:
        calls.append(0)
        if len(calls) in updates:
            with torch.no_grad():
                batches[0][0].parameters[0].fill_(math.nan)
        return original(wrapped, batches, accelerator)

    return update


ROLLED = {"steps": 8, "eval_every": 2, "on_nan": 0.5}


def test_a_loss_that_is_not_finite_goes_back_once_with_a_smaller_rate(
    make: Build, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training_module, "update", poisoned([6]))
    parts = make(**ROLLED)
    progress = run_training(parts)
    said = "the loss or its gradient was not finite at step 6; continuing from step 4 with 0.5 times the learning rate"
    assert said in capfd.readouterr().out
    assert progress.rollbacks == [{"step": 6, "to": 4, "factor": 0.5}]
    rates = {e["step"]: e["lr"] for e in progress.history if "lr" in e}
    assert sorted(rates) == list(range(1, 9)), "every step once"
    monkeypatch.undo()
    usual = {e["step"]: e["lr"] for e in run_training(make("usual", **ROLLED)).history if "lr" in e}
    assert usual == pytest.approx({n: 0.05 * (9 - n) / 8 for n in range(1, 9)})
    assert all(rates[n] == (usual[n] if n <= 4 else usual[n] * 0.5) for n in range(1, 9))
    assert parts.prompt().isfinite().all()


@pytest.mark.parametrize("stopped_at", [5, 6, 7, 8, 9])
def test_a_run_that_went_back_resumes_bit_for_bit(
    make: Build, stopped_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = training_module.update

    def until(stop: int | None) -> Callable[..., list[float]]:
        calls = []

        def update(wrapped: Any, batches: Any, accelerator: Any) -> list[float]:
            calls.append(0)
            if len(calls) == stop:
                signal.raise_signal(signal.SIGTERM)
            (candidate, _), *_ = batches
            found = original(wrapped, batches, accelerator)
            # The loss of step 6 is not finite at the first rate, and is at the smaller one.
            slow = candidate.optimizer.param_groups[0]["initial_lr"] < 0.05
            return [math.nan] if candidate.progress.step >= 5 and not slow else found

        return update

    # A loss that is not finite does not change a candidate; here the step has changed it, and going back restores it.
    monkeypatch.setattr(training_module, "update", until(None))
    whole = make("whole", **ROLLED)
    expected = run_training(whole)
    assert [r["to"] for r in expected.rollbacks] == [4]
    monkeypatch.setattr(training_module, "update", until(stopped_at))
    with pytest.raises(Interrupted):
        run_training(make(**ROLLED))
    monkeypatch.setattr(training_module, "update", until(None))
    resumed = make(resume=True, **ROLLED)
    assert run_training(resumed).history == expected.history
    assert torch.equal(resumed.prompt(), whole.prompt())


def test_the_second_loss_that_is_not_finite_stops(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "update", poisoned([6, 8]))
    with pytest.raises(UserError, match=r"became nan at step 6, after training had gone back to step 4; the state of"):
        run_training(make(**ROLLED))


def test_a_run_that_stopped_over_a_loss_may_be_resumed_with_on_nan(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "update", poisoned([4]))
    with pytest.raises(UserError, match="became nan at step 4; the state of step 2 is kept"):
        run_training(make(steps=6, eval_every=2))
    monkeypatch.setattr(training_module, "update", poisoned([2]))
    progress = run_training(make(resume=True, steps=6, eval_every=2, on_nan=0.1))
    assert progress.rollbacks == [{"step": 4, "to": 2, "factor": 0.1}]


def test_going_back_passes_over_checkpoints_whose_validation_is_not_finite(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "update", poisoned([6]))
    monkeypatch.setattr(training_module, "predict", with_losses([3.0, 2.0, NAN, 1.0, 1.0, 1.0]))
    parts = make(**ROLLED)
    progress = run_training(parts)
    assert progress.rollbacks == [{"step": 6, "to": 2, "factor": 0.5}]
    assert [e["step"] for e in progress.history if "validation_loss" in e] == [0, 2, 4, 6, 8]
    assert sorted(p.name for p in parts.run.checkpoints.iterdir())[-1] == "step-000008"


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    make: Build, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, prompts = make(eval_every=2), []
    original, weight = Scores.nll, next(parts.model.prompt_encoder.parameters())

    def breaks(scores: Scores) -> torch.Tensor:
        nll = original(scores)
        if nll.requires_grad:
            prompts.append(parts.prompt())
            if len(prompts) == 4:
                # 0 * sqrt(0) is a zero whose gradient is infinite times zero.
                return nll * math.nan if what == "loss" else nll + ((weight - weight.detach()).sum() * 0).sqrt()
        return nll

    monkeypatch.setattr(Scores, "nll", breaks)
    with pytest.raises(
        UserError, match=r"became nan at step 4; the state of step 2 is kept in .*learning_rate \(0.05\)"
    ):
        run_training(parts)
    assert torch.equal(parts.prompt(), prompts[3]), "no update with what is not finite"
    saved = parts.run.checkpoints / "step-000002" / "trainable.safetensors"
    assert torch.equal(next(iter(load_file(saved).values())), prompts[2])
    monkeypatch.setattr(Scores, "nll", original)
    resumed = make(eval_every=2, resume=True)
    fresh = make("fresh", eval_every=2)
    assert run_training(resumed).history == run_training(fresh).history
    assert torch.equal(resumed.prompt(), fresh.prompt())


def test_patience_stops_where_validation_does_not_gain(make: Build) -> None:
    # A rate so small that float32 does not move: every validation equals the first.
    parts = make(steps=10, eval_every=1, patience=2, learning_rate=1e-30)
    progress = run_training(parts)
    assert (progress.step, progress.best_step, progress.validations_without_gain) == (2, 0, 2)


def test_a_full_disk_leaves_the_previous_checkpoint(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, calls = make(), []
    original = checkpoints.save_file

    def full(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 4:  # the optimizer's tensors of the second checkpoint
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(UserError, match=r"step-000003: the disk is full; .* Free space, then --resume$"):
        run_training(parts)
    assert [p.name for p in parts.run.checkpoints.iterdir()] == ["step-000000"], "whole, and nothing half beside it"
    monkeypatch.setattr(checkpoints, "save_file", original)
    resumed, fresh = make(resume=True), make("fresh")
    assert run_training(resumed).history == run_training(fresh).history
    assert torch.equal(resumed.prompt(), fresh.prompt())


def with_losses(losses: Sequence[float]) -> Callable[..., Outcome]:
    """Return a `predict` whose outcomes have these losses, and are the same otherwise."""
    remaining = iter(losses)

    def scripted(*arguments: Any, **more: Any) -> Outcome:
        return replace(predict(*arguments, **more), loss=next(remaining))

    return scripted


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("best_by", "values", "best"),
    [
        ("loss", [NAN, 2.0, 3.0, NAN], 2),
        ("loss", [2.0, NAN, 1.0, NAN], 4),
        ("loss", [INF, NAN, 1.0, 2.0], 4),
        ("loss", [NAN, -INF, NAN, 5.0], 6),  # a loss of minus infinity is not a gain either
        ("accuracy", [NAN, 1.0, NAN, NAN], 2),  # answers by scores that are not numbers, with any accuracy
    ],
)
def test_a_validation_that_is_not_finite_is_never_the_best_and_blocks_none(
    make: Build, best_by: str, values: list[float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make(steps=6, eval_every=2, best_by=best_by)
    monkeypatch.setattr(training_module, "predict", with_losses(values))
    monkeypatch.setattr(training_module, "compute_metrics", lambda *_: {"accuracy": 0.5})
    progress = run_training(parts)
    assert progress.best_step == best
    assert progress.best_value == (0.5 if best_by == "accuracy" else -values[best // 2])


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_metric_that_is_not_finite_is_never_the_best(
    make: Build, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, remaining = make(steps=4, eval_every=2, best_by="accuracy"), iter([value, 0.5, value])
    monkeypatch.setattr(training_module, "compute_metrics", lambda *_: {"accuracy": next(remaining)})
    progress = run_training(parts)
    assert (progress.best_step, progress.best_value) == (2, 0.5)


def test_validations_that_are_not_finite_use_up_patience(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make(steps=9, eval_every=1, patience=2)
    monkeypatch.setattr(training_module, "predict", with_losses([3.0, 2.0, NAN, NAN]))
    progress = run_training(parts)
    assert (progress.step, progress.best_step, progress.validations_without_gain) == (3, 1, 2)


def test_without_a_finite_validation_there_is_no_best_checkpoint(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make(steps=4, eval_every=2)
    monkeypatch.setattr(training_module, "predict", with_losses([NAN] * 3))
    with pytest.raises(UserError, match=r"^no validation gave a finite number, .* is the best; look at .*model.dtype$"):
        run_training(parts)


def test_a_best_value_of_an_older_checkpoint_that_is_no_number_does_not_block(make: Build) -> None:
    candidate = make_candidate(
        make().engine, 0, data=make("b").data, training=TrainingConfig(), seed=0, folder=Path("none")
    )
    candidate.progress = Progress(step=4, best_value=NAN)
    candidate.record_validation({}, 0.25)
    assert (candidate.progress.best_value, candidate.progress.best_step) == (0.25, 4)
