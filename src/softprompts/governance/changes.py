"""What has changed between two runs of a task: settings, data, base model, code, scores and costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from softprompts.errors import UserError, short
from softprompts.governance.evidence import Evidence, short_place
from softprompts.metrics.scoring import load_metrics
from softprompts.metrics.significance import LEVEL, compare
from softprompts.runs.folders import leaves
from softprompts.tasks.task import Task

APART = ("run.output_dir", "run.resume", "run.seed")  # of the settings; the seed has its own line


@dataclass(frozen=True)
class Change:
    """A change: of which kind, of what, from which value to which."""

    kind: str
    key: str
    was: str
    now: str


@dataclass(frozen=True)
class ScoreChange:
    """The change of a score. low, high, p: of the paired difference on the same rows; None if rows or seeds differ."""

    metric: str
    was: float | None
    now: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    meaning: str


@dataclass(frozen=True)
class ChangeLog:
    """All changes from an earlier run to a later one; `scores_note` says how scores were compared."""

    before: Evidence
    changes: Sequence[Change]
    scores: Sequence[ScoreChange]
    scores_note: str


def change_log(before: Evidence, now: Evidence, task: Task | None, key: str) -> ChangeLog:
    """Return the changes from one run to another of the same task.

    Args:
        before: the earlier run.
        now: the run of the record.
        task: its task, for metrics that need its schema or data; None if the rows cannot be read.
        key: the setting that names the earlier run, for the message of an error.

    Raises:
        UserError: the runs are one, or of different tasks; the first one ended later.
    """
    if before.digest == now.digest:
        raise UserError(f"{key}: {before.folder} is the run itself, or a copy of it; name an earlier run")
    if before.result.task != now.result.task:
        raise UserError(
            f"{key}: {before.folder} is a run of the task {before.result.task}, but {now.folder} of "
            f"{now.result.task}; name an earlier run of {now.result.task}"
        )
    if before.finished and now.finished and before.finished > now.finished:
        raise UserError(
            f"{key}: {before.folder} ended on {before.result.finished}, which is later than {now.folder} on "
            f"{now.result.finished}; name an earlier run"
        )
    scores, note = _scores(before, now, task)
    return ChangeLog(before, list(_changes(before, now)), scores, note)


def _changes(before: Evidence, now: Evidence) -> Iterator[Change]:
    old, new = before.result, now.result
    yield from _of_trees("run", {"recipe": old.recipe, "seed": old.seed}, {"recipe": new.recipe, "seed": new.seed})
    yield from _of_trees("setting", _settings(before), _settings(now))
    yield from _of_trees("data", *_data(before, now))
    yield from _of_trees("parameters", old.parameters, new.parameters)
    code = [{"commit": r.environment["commit"], **r.environment.get("versions", {})} for r in (old, new)]
    yield from _of_trees("code", *code)
    yield from _of_trees("hardware", *(r.environment.get("hardware", {}) for r in (old, new)))
    costs = ["energy_kwh", "peak_memory_gib"]
    if not any("candidates" in r.notes for r in (old, new)):  # the seconds of a sweep are not those of one training
        costs.insert(0, "seconds_training")
    yield from _of_trees("cost", *({k: f"{r.cost[k]:.4g}" for k in costs if r.cost.get(k)} for r in (old, new)))


def _settings(evidence: Evidence) -> dict[str, Any]:
    return {key: value for key, value in leaves(evidence.result.settings) if key not in APART}


def _data(*runs: Evidence) -> list[dict[str, Any]]:
    """Return the data of runs; without digests of the splits, if one is of prompts that its run chose."""
    apart = {"sha256"} if any(run.chose_prompt for run in runs) else set()
    return [
        run.result.data
        | {"splits": {name: {k: v for k, v in split.items() if k not in apart} for name, split in run.splits.items()}}
        for run in runs
    ]


def _of_trees(kind: str, old: Any, new: Any) -> Iterator[Change]:
    """Yield the leaves of two trees that differ; "-" is for a leaf that only one of them has."""
    was, now = dict(leaves(old)), dict(leaves(new))
    for key in dict.fromkeys((*was, *now)):
        values = ["-" if key not in tree else str(tree[key]) for tree in (was, now)]
        if values[0] != values[1]:
            yield Change(kind, key, *values)


def _scores(before: Evidence, now: Evidence, task: Task | None) -> tuple[list[ScoreChange], str]:
    """Return the change of each score that both runs have, and how it was compared."""
    reason = _why_not_paired(before, now)
    found: dict[str, tuple[float, float, float]] = {}
    if not reason:
        found, reason = _paired(before, now, task)
    changes = []
    for metric, interval in now.result.metrics.items():
        if metric not in before.result.metrics:
            continue
        was, value = before.result.metrics[metric].value, interval.value
        difference = None if was is None or value is None else value - was
        low, high, p = found.get(metric, (None, None, None))
        shown = p is not None and p < LEVEL
        meaning = "" if p is None else "a difference is shown" if shown else "no difference is shown"
        changes.append(ScoreChange(metric, was, value, difference, low, high, p, meaning))
    chose = before.chose_prompt or now.chose_prompt
    note = " A run chose its prompt, so rows are compared by place and target, and not by text." if chose else ""
    if reason:
        return changes, f"Not compared row by row: {reason}.{note}"
    said = "Compared row by row, with 95 % intervals over rows. One run each: other seeds may differ as much."
    return changes, f"{said}{note}"


def _why_not_paired(before: Evidence, now: Evidence) -> str:
    for name, run in (("earlier", before), ("later", now)):
        if run.predictions_missing:
            return f"of the {name} run, {run.predictions_missing}"
    if [(short_place(p.place), p.target) for p in before.predictions] != [
        (short_place(p.place), p.target) for p in now.predictions
    ]:
        return "the scored rows are others"
    splits = [data["splits"].get(run.split, {}) for data, run in zip(_data(before, now), (before, now), strict=True)]
    same_prompt = before.result.settings["task"]["prompt"] == now.result.settings["task"]["prompt"]
    if same_prompt and splits[0].get("sha256") != splits[1].get("sha256"):
        return "the scored rows have other texts"
    return ""


def _paired(before: Evidence, now: Evidence, task: Task | None) -> tuple[dict[str, tuple[float, float, float]], str]:
    """Return interval and p of the difference of each metric that has them; the reason if none can be computed."""
    names = now.result.settings["task"].get("metrics", [])
    targets = [p.target.strip() for p in now.predictions]
    runs = {"now": now, "was": before}
    answers = {name: [[p.prediction.strip() for p in run.predictions]] for name, run in runs.items()}
    try:
        metrics = load_metrics(names, *((task.schema, task.metric_data) if task else ()))
        compared = compare(answers, targets, metrics)
    except Exception as error:  # a user's module may raise anything
        return {}, f"the metrics cannot be computed: {short(error)}"
    # A metric may be undefined on a sample of the rows, as kappa of equal predictions is.
    return {c.metric: (c.low, c.high, c.p) for c in compared if all(map(math.isfinite, (c.low, c.high)))}, ""
