"""The record of a run: settings, versions, commit, hardware, data fingerprint, metrics, cost."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from softprompts.errors import UserError
from softprompts.metrics.scoring import Interval

SCHEMA_VERSION = 1  # of a record; another one for a field that goes or changes its meaning, not for one that is added


@dataclass(kw_only=True)
class Result:
    """The record of a run, as `result.json` holds it. Seconds are wall time, memory GiB, tokens real ones."""

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
    """Return a record as JSON text, with null for a loss that is not a number: JSON has no word for it."""
    return json.dumps(_finite(asdict(result)), indent=1, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_result(path: Path) -> Result:
    """Read a record back; fields that another version of the library has written besides are left out.

    Raises:
        UserError: the record has a schema version that this version of the library does not know.
    """
    data = {"schema_version": 1} | json.loads(path.read_text(encoding="utf-8"))  # the first records do not name it
    if data["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"{path}: this record has schema version {data['schema_version']}, and {SCHEMA_VERSION} is known"
        )
    data["metrics"] = _intervals(data["metrics"])
    data["baselines"] = {name: _intervals(metrics) for name, metrics in data["baselines"].items()}
    return Result(**{name: data[name] for name in Result.__dataclass_fields__})


def _intervals(metrics: dict[str, dict[str, Any]]) -> dict[str, Interval]:
    return {name: Interval(**{k: v[k] for k in Interval.__dataclass_fields__}) for name, v in metrics.items()}


@dataclass
class Progress:
    """Where training stands. `history` holds one entry a validation and one a logged step.

    seconds: wall time, validations included; cpu_seconds: processor time of all threads of this process, which other
    work on the machine moves far less. energy_kwh: see `energy`; None where it was not estimated, or not all of it,
    since the run was stopped in between. loss_scale: state of the loss scaler in float16 mixed precision, else None.
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
        """Return both stages as one, the later one's steps counted on; its best counts, and is chosen as it was."""
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
    """How a candidate ended: its best validation (`value`, the larger the better) and the curve of all of them.

    `steps` are the updates that it made, `planned` those of its whole training; `left` says that it left a sweep early.
    """

    values: dict[str, Any]
    value: float | None
    best_step: int
    validations: list[dict[str, float]]
    failure: str | None
    steps: int
    planned: int
    left: bool = False
