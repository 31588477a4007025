"""What trackers get from training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from softprompts.training.log import TrainingLog


class Tracked:
    """Stands in for an accelerator with a tracker."""

    project_dir = "there"

    def __init__(self) -> None:
        self.sent: list[tuple[int, dict[str, float]]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.sent.append((step, values))


def candidate(step: int, name: str = "") -> Any:
    progress = SimpleNamespace(step=step, history=[{"step": step, "loss": 0.5}])
    return SimpleNamespace(name=name, failure=None, progress=progress)


def steps_sent(*candidates: Any) -> list[int]:
    """Return the steps that the trackers get for these candidates, each in a log of its own."""
    accelerator: Any = Tracked()
    for one in candidates:
        bar: Any = SimpleNamespace(update=lambda: None, set_postfix=lambda **_: None)
        TrainingLog(bar, accelerator).update([one])
    names = [f"{c.name}/step" if c.name else "step" for c in candidates]
    assert [values[name] for (_, values), name in zip(accelerator.sent, names, strict=True)] == [
        c.progress.step for c in candidates
    ]
    return [step for step, _ in accelerator.sent]


def test_a_single_training_has_its_own_steps() -> None:
    assert steps_sent(candidate(1), candidate(2), candidate(3)) == [1, 2, 3]
    assert steps_sent(candidate(7), candidate(8)) == [7, 8], "a resumed one, too"
    assert steps_sent(candidate(1, "a"), candidate(1, "b"), candidate(2, "a"), candidate(2, "b")) == [1, 1, 2, 2]


def test_the_trackers_steps_never_fall() -> None:
    """After a training that has gone back, and for candidates or stages one after another."""
    assert steps_sent(candidate(1), candidate(5), candidate(3), candidate(4)) == [1, 5, 5, 6]
    assert steps_sent(candidate(1, "a"), candidate(9, "a"), candidate(1, "b"), candidate(2, "b")) == [1, 9, 9, 10]
