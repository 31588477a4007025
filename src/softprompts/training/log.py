"""Show the progress of training: a progress bar, lines above it, and the numbers for trackers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from softprompts.system.files import one_line
from softprompts.training.state import Candidate

from accelerate import Accelerator
from tqdm.auto import tqdm

# The last step that the trackers got, and what was added to the candidate's own step.
SENT: WeakKeyDictionary[Accelerator, tuple[int, int]] = WeakKeyDictionary()


@dataclass
class TrainingLog:
    """Shows the newest entry of a candidate's history after it is recorded."""

    bar: tqdm
    accelerator: Accelerator

    def update(self, candidates: Sequence[Candidate]) -> None:
        """Show the step that these candidates have just made, or why they are given up."""
        losses = []
        for candidate in candidates:
            if candidate.failure:
                self.failure(candidate)
                continue
            losses.append(self._track(candidate)["loss"])
            self.bar.update()
        self.bar.set_postfix(loss=f"{min(losses, default=math.nan):.4f}")

    def validation(self, candidate: Candidate) -> None:
        """Show the validation that was just recorded, and whether it ends the training early."""
        progress, training = candidate.progress, candidate.training
        values = self._track(candidate)
        self._note(candidate, "  ".join([f"step {progress.step:4d}"] + [f"{k} {v:.4f}" for k, v in values.items()]))
        if candidate.patience_spent and progress.step < training.steps:
            self._note(candidate, f"stopped early: no gain in {training.patience} validations")

    def rolled_back(self, candidate: Candidate, step: int, text: str) -> None:
        """Report that a candidate has gone back from `step`, and set the bar to its present step."""
        self.bar.update(candidate.progress.step - step)
        self._note(candidate, text)

    def failure(self, candidate: Candidate) -> None:
        """Report why a candidate is given up, if it is."""
        if candidate.failure:
            self._note(candidate, f"given up: {candidate.failure}")

    def _track(self, candidate: Candidate) -> dict[str, float]:
        """Send the newest entry to the trackers; return it without its step."""
        values = {key: value for key, value in candidate.progress.history[-1].items() if key != "step"}
        prefix = f"{candidate.name}/" if candidate.name else ""
        with one_line(f"run.trackers, in {self.accelerator.project_dir}"):
            sent = {f"{prefix}{k}": v for k, v in (values | {"step": candidate.progress.step}).items()}
            self.accelerator.log(sent, step=self._rising(candidate.progress.step))
        return values

    def _rising(self, step: int) -> int:
        """Return the step for the trackers, which never falls: W&B drops what follows with a smaller step.

        A candidate's step falls if training goes back, and if another candidate or another stage begins.
        """
        last, added = SENT.get(self.accelerator, (0, 0))
        added = max(added, last - step)
        SENT[self.accelerator] = step + added, added
        return step + added

    def _note(self, candidate: Candidate, text: str) -> None:
        """Write a line above the bar, in one process only: a disabled bar of another process would write it again."""
        if self.accelerator.is_local_main_process:
            self.bar.write(f"{candidate.name}  {text}" if candidate.name else text)


@contextmanager
def training_log(candidates: Sequence[Candidate], accelerator: Accelerator) -> Iterator[TrainingLog]:
    """Within this context the bar is open; at the end its line is complete, so an error starts on a new line."""
    with tqdm(
        total=sum(c.target for c in candidates),
        initial=sum(c.progress.step for c in candidates),
        desc="training",
        unit="step",
        disable=not accelerator.is_local_main_process,
    ) as bar:
        yield TrainingLog(bar, accelerator)
