"""Compare adapters of a served split test by the outcomes in its log."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, listed, short
from softprompts.metrics.significance import Comparison, holm, p_value, verdict

import numpy

# By split and adapter: the outcomes of each user, or of each answer without a known user.
Outcomes = dict[str, dict[str, dict[str, list[float]]]]


def compare_outcomes(log: str, resamples: int) -> list[str]:
    """Return lines on each split of a log: the adapters' mean outcomes, and tests of their differences.

    Users are resampled with all of their outcomes, because outcomes of one user depend on each other (Davison and
    Hinkley 1997, section 3.8). The log identifies a user by a digest; an answer without one counts as a separate user.
    The last outcome of an answer counts.

    Args:
        log: file of `serve.split_log`, one JSON object per line.
        resamples: number of resamples.

    Raises:
        UserError: the file cannot be read or is not such a log; no split has outcomes of two adapters.
    """
    lines = []
    for split, adapters in _read(log).items():
        if len(adapters) < 2:
            continue
        lines.append(f"{split}:")
        for name, users in adapters.items():
            values = [value for own in users.values() for value in own]
            lines.append(
                f"  {name}: mean outcome {numpy.mean(values):.4f} of {len(values)} answers, {len(users)} users"
            )
        lines += [f"  {verdict(comparison)}" for comparison in _compared(adapters, resamples)]
    if not lines:
        raise UserError(f"outcomes.log: {log} has no outcomes of two adapters of one split")
    return lines


def _compared(adapters: dict[str, dict[str, list[float]]], resamples: int) -> list[Comparison]:
    generator = numpy.random.default_rng(0)
    means, drawn = {}, {}
    for name, users in adapters.items():
        sums = numpy.array([sum(own) for own in users.values()])
        counts = numpy.array([len(own) for own in users.values()])
        rows = generator.integers(0, len(sums), (resamples, len(sums)))
        means[name], drawn[name] = sums.sum() / counts.sum(), sums[rows].sum(1) / counts[rows].sum(1)
    pairs = list(combinations(adapters, 2))
    differences = [drawn[a] - drawn[b] for a, b in pairs]
    values = [p_value(difference) for difference in differences]
    comparisons = []
    for (a, b), difference, p, adjusted in zip(pairs, differences, values, holm(values), strict=True):
        low, high = numpy.percentile(difference, [2.5, 97.5]).tolist()
        count = sum(len(own) for name in (a, b) for own in adapters[name].values())
        comparisons.append(
            Comparison(a, b, "outcome", float(means[a] - means[b]), low, high, p, adjusted, count, (1, 1))
        )
    return comparisons


def _read(log: str) -> Outcomes:
    """Return the outcomes in a log."""
    try:
        text = Path(log).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"outcomes.log: cannot read {log}: {reason}") from None
    answers: dict[str, dict[str, Any]] = {}
    outcomes: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        record = _record(line, f"{log}, line {number}")
        if "outcome" in record:
            outcomes[record["id"]] = record
        else:
            answers[record["id"]] = record
    found: Outcomes = {}
    for name, record in outcomes.items():
        # The answer may be in an earlier log; an outcome with a user is enough without it.
        if (answer := answers.get(name, record if "user" in record else None)) is None:
            raise UserError(f"outcomes.log: {log} has an outcome of {short(name)}, but no answer with that id")
        users = found.setdefault(answer["split"], {}).setdefault(answer["adapter"], {})
        users.setdefault(answer.get("user") or name, []).append(float(record["outcome"]))
    return found


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"outcomes.log: {place}: malformed JSON") from None
    keys = ("id", "split", "adapter")
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in keys):
        raise UserError(f"outcomes.log: {place}: expected an object with the texts {listed(keys)}")
    if not isinstance(record.get("user"), (str, type(None))):
        raise UserError(f"outcomes.log: {place}: user: expected a text, found {short(repr(record['user']))}")
    value = record.get("outcome", 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"outcomes.log: {place}: outcome: expected a number, found {short(repr(value))}")
    return record
