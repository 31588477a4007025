"""The scores of a run by group, such as by language or domain, where the rows have a column with groups."""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from softprompts.data.values import SHOWN, plain
from softprompts.errors import UserError, listed, nearest
from softprompts.governance.evidence import Evidence, Rows, scored_rows
from softprompts.metrics.scoring import Interval, Metric, compute_metrics, intervals, load_metrics
from softprompts.readiness.plan import Plan
from softprompts.tasks.privacy import shown_names
from softprompts.tasks.task import Task
from softprompts.tasks.templates import Row

MOST = 12  # values of a column that is found to have groups
LONGEST = 60  # characters of such a value; the record shows it, and no texts of rows
MISSING = "(missing)"  # the group of the rows without a value
FEW = 30  # rows of a group; with fewer, its interval says little
RESAMPLES = 1000
CLOSE = 1e-3  # between a recorded score and that of the predictions


@dataclass(frozen=True)
class Group:
    """The rows with one value of a column, and their scores."""

    column: str
    value: str
    rows: int
    metrics: dict[str, Interval]

    @property
    def few(self) -> bool:
        """Whether these are too few rows."""
        return self.rows < FEW


@dataclass(frozen=True)
class ByGroup:
    """The scores by group, and the columns; or why there are none. `passed_over` has the other columns, and why."""

    groups: Sequence[Group]
    columns: Sequence[str]
    reason: str
    passed_over: Mapping[str, str] = field(default_factory=dict)

    def gap(self, column: str, metric: str) -> tuple[Group, Group] | None:
        """Return the groups of a column with the best and the worst score by a number, such as the plan's."""
        own = [group for group in self.groups if group.column == column and metric in group.metrics]
        if len(own) < 2:
            return None
        ranked = sorted(own, key=lambda group: group.metrics[metric].value)
        return ranked[-1], ranked[0]


def scores_by_group(evidence: Evidence, rows: Rows, plan: Plan, asked: Sequence[str] | None) -> ByGroup:
    """Return the scores by group.

    Args:
        evidence: the run.
        rows: its rows.
        plan: whose columns with times and authors have no groups, because they name people.
        asked: columns, or none of them; None for those of the scored rows that have 2 to `MOST` values. Rows without a
            value are a group as well.

    Raises:
        UserError: an asked column does not exist, or the rows are not at hand.
    """
    if asked is not None and not asked:
        return ByGroup([], [], "governance.groups names no column")
    found, reason = scored_rows(evidence, rows)
    if reason or rows.task is None:
        if asked:
            raise UserError(f"governance.groups: {reason}")
        return ByGroup([], [], reason)
    passed_over = {} if asked else _passed_over(found, rows.task, plan)
    columns = list(asked or (name for name in _names(found) if name not in passed_over))
    for column in columns:
        if column not in (names := _names(found)):
            raise UserError(f'governance.groups: the rows have no column "{column}"{nearest(column, names)}')
    if not columns:
        return ByGroup([], [], f"no column divides the rows into 2 to {MOST} groups: {why_not(passed_over)}")
    metrics = load_metrics(rows.task.metrics, rows.task.schema, rows.task.metric_data)
    if reason := _difference(evidence, metrics, plan.metric):
        return ByGroup([], [], reason)
    scored = [group for column in columns for group in _of_column(evidence, found, column, metrics)]
    return ByGroup(scored, columns, "", passed_over)


def why_not(passed_over: Mapping[str, str]) -> str:
    """Return the columns without groups for a sentence, each with the reason."""
    return listed(f"{column} ({why})" for column, why in passed_over.items())


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.record))


def _passed_over(rows: Sequence[Row], task: Task, plan: Plan) -> dict[str, str]:
    """Return the columns whose values do not divide the rows into groups, and why."""
    target = {name for _, name, *_ in string.Formatter().parse(task.config.target) if name}
    reasons = dict.fromkeys(target, "part of the target") | {
        column: "times or authors, by the plan" for column in (plan.time_column, plan.author_column) if column
    }
    found = {}
    for column in _names(rows):
        if why := reasons.get(column) or _no_groups([row.record.get(column) for row in rows]):
            found[column] = why
    return found


def _no_groups(values: Sequence[Any]) -> str:
    """Return why the values of a column do not divide the rows into groups; empty if they do."""
    named = Counter(map(_value, values))
    known = {name: count for name, count in named.items() if name != MISSING}
    reasons = {
        "lists, objects or bytes": any(value is not None and not isinstance(value, SHOWN) for value in values),
        "one value": len(named) < 2,
        f"more than {MOST} values": len(named) > MOST,
        "values that seldom repeat": 2 * len(known) > sum(known.values()),
        "long texts": any(len(name) > LONGEST for name in known),
    }
    return next((why for why, applies in reasons.items() if applies), "")


def _value(value: Any) -> str:
    """Return the name of the group of a value. 20.0 and 20 are one; NaN and a cell of spaces are no value."""
    if value is None or value != value or not str(plain(value)).strip():
        return MISSING
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(plain(value))


def _pairs(evidence: Evidence, numbers: Sequence[int]) -> tuple[list[str], list[str]]:
    chosen = [evidence.predictions[n] for n in numbers]
    return [p.prediction.strip() for p in chosen], [p.target.strip() for p in chosen]


def _difference(evidence: Evidence, metrics: dict[str, Metric], needed: str) -> str:
    """Return why predictions and record do not belong together; empty if they do."""
    values = compute_metrics(metrics, *_pairs(evidence, range(len(evidence.predictions))))
    for name, value in values.items():
        recorded = evidence.result.metrics.get(name)
        if recorded and recorded.value is not None and abs(recorded.value - value) > CLOSE:
            return f"the predictions give {name} {value:.4f}, but the record has {recorded.value:.4f}"
    return "" if needed in values else f"the metrics of the task no longer report {needed}"


def _scores(metrics: dict[str, Metric], answers: list[str], targets: list[str]) -> dict[str, Interval]:
    """Return the scores of a group, without those of a metric that gives no number for it.

    A metric may need some kind of row that the group lacks, and a user's module may raise anything.
    """
    found: dict[str, Interval] = {}
    for name, metric in metrics.items():
        with suppress(Exception):
            found |= intervals({name: metric}, answers, targets, RESAMPLES)
    return {k: one for k, one in found.items() if all(map(math.isfinite, (one.value, one.low, one.high)))}


def _of_column(evidence: Evidence, rows: Sequence[Row], column: str, metrics: dict[str, Metric]) -> list[Group]:
    values = [_value(row.record.get(column)) for row in rows]
    shown = shown_names(sorted(set(values)))  # a column may name people
    return [
        Group(
            column,
            shown[value],
            count,
            _scores(metrics, *_pairs(evidence, [n for n, v in enumerate(values) if v == value])),
        )
        for value, count in sorted(Counter(values).items())
    ]
