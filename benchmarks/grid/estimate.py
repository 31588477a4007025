"""How long a benchmark will take: what its jobs took where they are recorded, else what the shipped config took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.grid.plan import Job
from benchmarks.grid.records import seconds_of
from benchmarks.grid.settings import GridConfig
from softprompts.runs.record import load_result

SHIPPED = Path("results/tasks")
UNKNOWN = 120.0  # seconds of a job of which nothing is recorded, until the first of its kind is


def expected(grid: GridConfig, jobs: Sequence[Job], folder: Path) -> dict[Job, float]:
    """Return the seconds that each job is expected to take: those of the same method and kind where some are there.

    Else a training run takes what its shipped config took, times the rows that it sees over the rows seen there.
    """
    taken = {job: seconds for job in jobs if (seconds := seconds_of(folder, job)) is not None}
    return {job: taken[job] if job in taken else _expected(grid, job, taken) for job in jobs}


def _expected(grid: GridConfig, job: Job, taken: dict[Job, float]) -> float:
    like = [s for other, s in taken.items() if (other.kind, other.method) == (job.kind, job.method)]
    if like:
        return mean(like)
    method = grid.methods[job.method]
    record = SHIPPED / grid.task / f"{method.recipe}.json"
    if job.kind == "probe" or not record.is_file():
        kind = [s for other, s in taken.items() if other.kind == job.kind]
        return mean(kind) if kind else UNKNOWN
    result = load_result(record)
    if "training" not in result.settings:
        return result.cost["seconds_total"]
    before = result.settings["training"]
    now = before | grid.training | (grid.sweep_training if job.kind == "sweep" else {})
    rows = (now["steps"] * now["batch_size"]) / (before["steps"] * before["batch_size"])
    return result.cost["seconds_total"] - result.cost["seconds_training"] * (1 - rows)


def spoken(seconds: float) -> str:
    """Return a duration for people: "3 h 20 min", "12 min", "40 s"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
