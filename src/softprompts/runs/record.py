"""The record of a run: settings, versions, commit, hardware, data fingerprint, metrics, cost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, short
from softprompts.metrics.scoring import Interval

SCHEMA_VERSION = 1  # raised if a field is removed or changes its meaning, not if one is added


@dataclass(kw_only=True)
class Result:
    """The record of a run in `result.json`. Seconds are wall time, memory is in GiB, tokens exclude padding."""

    schema_version: int = SCHEMA_VERSION
    recipe: str
    task: str
    settings: dict[str, Any]
    seed: int
    metrics: dict[str, Interval]
    baselines: dict[str, dict[str, Interval]]
    test_loss: float
    parameters: dict[str, int]
    cost: dict[str, float]
    training: dict[str, Any]
    notes: dict[str, Any]
    data: dict[str, Any]
    environment: dict[str, Any]
    finished: str


def as_json(result: Result) -> str:
    """Return a record as JSON text, as by `json_text`."""
    return json_text(asdict(result))


def json_text(content: Any) -> str:
    """Return JSON text, with null for a loss or score that is not finite, because JSON has no value for it."""
    return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scored_prompt(result: Result) -> tuple[str, int]:
    """Return the prompt template of a run's scores, and the number of few-shot examples before each row.

    A run of hard prompts scores the template that it chose, which may be another than `task.prompt`.
    """
    template: str = result.settings["task"]["prompt"]
    if result.recipe != "hard_prompt":
        return template, 0
    for number, wording in enumerate(result.notes.get("wordings", ())):
        if number == result.notes.get("chosen"):
            template = wording["prompt"]
    return template, result.settings.get("hard", {}).get("shots", 0)


def load_result(path: Path) -> Result:
    """Read a record. Unknown fields of another version of the library are ignored.

    Raises:
        UserError: the file is damaged; the library does not know the record's schema version.
        OSError: the file cannot be read.
    """
    text = path.read_bytes()
    try:
        data = {"schema_version": 1} | json.loads(text)  # the first records lack it
        if data["schema_version"] != SCHEMA_VERSION:
            raise UserError(
                f"{path}: this record has schema version {data['schema_version']}, but only {SCHEMA_VERSION} is known"
            )
        data["metrics"] = _intervals(data["metrics"])
        data["baselines"] = {name: _intervals(metrics) for name, metrics in data["baselines"].items()}
        return Result(**{name: data[name] for name in Result.__dataclass_fields__})
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        lacks = "it lacks " if isinstance(error, KeyError) else ""
        raise UserError(f"{path}: is damaged, or not the record of a run: {lacks}{short(error)}") from None


def _intervals(metrics: dict[str, dict[str, Any]]) -> dict[str, Interval]:
    return {name: Interval(**{k: v[k] for k in Interval.__dataclass_fields__}) for name, v in metrics.items()}


@dataclass
class Progress:
    """The progress of training. `history` has one entry per validation and one per logged step.

    seconds: wall time, including validations. cpu_seconds: processor time of all threads of this process, which other
    work on the machine affects far less. energy_kwh: see `energy`; None if it was not estimated, or only in part,
    because the run was interrupted. loss_scale: state of the loss scaler in float16 mixed precision, else None.
    rollbacks: each with the `step` whose loss was not finite, the step `to` which training went back, and the `factor`
    of the learning rate from there on.
    """

    step: int = 0
    best_step: int = 0
    best_value: float | None = None
    validations_without_gain: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    energy_kwh: float | None = None
    tokens: int = 0
    loss_scale: dict[str, float] | None = None
    rollbacks: list[dict[str, float]] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)

    def followed_by(self, later: Progress) -> Progress:
        """Return both stages as one, with the later steps added to the earlier ones. The later stage has the best."""
        energy, more = self.energy_kwh, later.energy_kwh
        back = [r | {"step": r["step"] + self.step, "to": r["to"] + self.step} for r in later.rollbacks]
        shifted = [entry | {"step": entry["step"] + self.step} for entry in later.history]
        return replace(
            later,
            step=self.step + later.step,
            best_step=self.step + later.best_step,
            seconds=self.seconds + later.seconds,
            cpu_seconds=self.cpu_seconds + later.cpu_seconds,
            energy_kwh=None if energy is None or more is None else energy + more,
            tokens=self.tokens + later.tokens,
            rollbacks=self.rollbacks + back,
            history=self.history + shifted,
        )


@dataclass(frozen=True)
class Standing:
    """The end of a candidate: its best validation (`value`, larger is better) and all validations.

    `steps` are its steps, `planned` those of a whole training; `left` is true if it left a sweep early.
    """

    values: dict[str, Any]
    value: float | None
    best_step: int
    validations: list[dict[str, float]]
    failure: str | None
    steps: int
    planned: int
    left: bool = False

    @property
    def rank(self) -> tuple[float, float]:
        """The key of the order, larger is better: its best validation, and among equals the smaller loss there."""
        losses = {entry["step"]: entry["validation_loss"] for entry in self.validations}
        value = -math.inf if self.value is None else self.value
        return value, -losses.get(self.best_step, math.inf)


def ranked(standings: Iterable[Standing]) -> list[Standing]:
    """Return standings in order: by length of training, then by `rank`; those given up come last.

    A candidate that left early is never above one that did not, because it was worse at the same step.
    """

    def place(standing: Standing) -> tuple[bool, float, float, float]:
        value, loss = standing.rank
        return standing.value is None, -standing.steps if standing.left else -math.inf, -value, -loss

    return sorted(standings, key=place)


def spoken(seconds: float) -> str:
    """Return a duration for people: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
