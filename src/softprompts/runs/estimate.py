"""Estimate the time of a run on this machine from a few timed steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from softprompts.config.sections import EvaluationConfig, TrainingConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.engine.forward import Engine
from softprompts.evaluation.predict import predict

from accelerate import Accelerator

TIMED_STEPS = 2  # after one that is not timed, because a process's first step takes longer
TIMED_ROWS = 8  # scored rows that are timed


def estimated_seconds(
    engine: Engine, data: EncodedTask, training: TrainingConfig, evaluation: EvaluationConfig
) -> float:
    """Return the seconds of training, validation and test, without loading; nothing is changed or saved.

    Steps, losses of validation rows and predictions of test rows are timed separately and multiplied by their numbers.
    """
    accelerator = Accelerator()
    batch = [example.document for example in data.train[: training.batch_size]]

    def step() -> None:
        engine(batch).nll().mean().backward()
        engine.zero_grad()

    def score(answer_open: bool) -> Callable[[], object]:
        rows = data.validation[:TIMED_ROWS]
        return lambda: predict(engine, rows, evaluation, accelerator, "timing", answer_open=answer_open)

    step()
    checked = min(len(data.validation), training.eval_rows or len(data.validation))
    validations = 1 + math.ceil(training.steps / training.eval_every)
    rows = min(TIMED_ROWS, len(data.validation))
    asked = training.best_by != "loss"
    total = training.steps * _seconds(step, TIMED_STEPS)
    total += validations * checked / rows * _seconds(score(asked), 1)
    scored = len(data.test) + (len(data.validation) if evaluation.abstain_below == "auto" else 0)
    return total + scored / rows * _seconds(score(True), 1)


def _seconds(work: Callable[[], object], times: int) -> float:
    """Return the mean seconds of some work."""
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times
