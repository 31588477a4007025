"""Compare adapters of a served split test, or any variants, by the outcomes in a log."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from softprompts.data.readers import PACKED, SUFFIXES, open_file, read_lines
from softprompts.data.strict_json import JsonError, parse_json
from softprompts.data.values import names_nobody
from softprompts.errors import UserError, listed, nearest, notice, short
from softprompts.metrics.sequential import largest_e, largest_e_of_rows, neighbours
from softprompts.metrics.significance import LEVEL, Comparison, holm, verdict

import numpy

USERS = ("user", "users", "userid", "username")
TABLES = tuple(suffix + packed for suffix in SUFFIXES if "json" not in suffix for packed in ("", *PACKED))


@dataclass(frozen=True)
class Outcome:
    """An outcome of an answer. `user` is that of the answer; an answer without a known one has a user of its own.

    `value` is the last outcome that was reported of the answer, and `reported_first` the first one.
    """

    variant: str
    user: str
    value: float
    reported_first: float


def compare_outcomes(log: str, resamples: int) -> list[str]:
    """Return lines on each split of a log: the adapters' mean outcomes, and tests of their differences.

    Intervals resample users with all of their outcomes, because outcomes of one user depend on each other (Davison and
    Hinkley 1997, section 3.8). p is that of a permutation test (Fisher 1935): the share of random assignments of the
    same users whose difference is as large. It is valid for any number of users. The last outcome of an answer counts.
    A user with outcomes of two adapters is left out.

    A line has the e-value of each pair, which stays valid if one looks at it every day. It is that of the first outcome
    of each user, as it was first reported. A user who meets another adapter later stays in it.

    Args:
        log: file of `serve.split_log`, one JSON object per line, which identifies a user by a digest; or a CSV file
            with `variant`, `outcome` and `user`.
        resamples: number of resamples, and of random assignments.

    Raises:
        UserError: the file cannot be read or is not such a log; no split has outcomes of two adapters.
    """
    lines = []
    for split, outcomes in _read(log).items():
        kept, crossed = _with_one_variant(outcomes)
        adapters = _by_variant(kept)
        if len(adapters) < 2:
            continue
        lines.append(f"{split}:")
        if crossed:
            left_out = f"their outcomes: {len(outcomes) - len(kept)}"
            lines.append(f"  left out: users with outcomes of more than one variant: {crossed}; {left_out}")
        for name, users in adapters.items():
            values = [value for own in users.values() for value in own]
            lines.append(
                f"  {name}: mean outcome {numpy.mean(values):.4f} of {len(values)} answers, {len(users)} users"
            )
        # Outcomes may be minutes or refunds, of which less is better.
        lines += [f"  {verdict(one, than='has a higher mean than')}" for one in _compared(adapters, resamples)]
        lines += _at_any_time(outcomes)
    if not lines:
        raise UserError(f"outcomes.log: {log} has no outcomes of two adapters of one split, from users of one each")
    return lines


def _with_one_variant(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], int]:
    """Return the outcomes of users with a single variant, and the number of the other users."""
    seen: dict[str, set[str]] = {}
    for outcome in outcomes:
        seen.setdefault(outcome.user, set()).add(outcome.variant)
    crossed = sum(len(variants) > 1 for variants in seen.values())
    return [outcome for outcome in outcomes if len(seen[outcome.user]) == 1], crossed


def _by_variant(outcomes: Iterable[Outcome]) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.variant, {}).setdefault(outcome.user, []).append(outcome.value)
    return found


def _at_any_time(outcomes: Sequence[Outcome]) -> list[str]:
    """Return lines on the e-values of all pairs of variants, from the first outcome of each user, in their order.

    Later outcomes change nothing of it: no user leaves, and no outcome is replaced. Otherwise the bound on the largest
    e-value so far would not hold. If all outcomes are 0 or 1, the hypothesis is that shares are equal. For other
    numbers it is that in a pair of users each variant is equally often the higher one, which is not about means.
    """
    first: dict[str, Outcome] = {}
    for outcome in outcomes:
        first.setdefault(outcome.user, outcome)
    shares = all(own.reported_first in (0, 1) for own in first.values())
    compared = list(combinations(dict.fromkeys(own.variant for own in first.values()), 2))
    enough = len(compared) / LEVEL  # e-values of several pairs: Bonferroni
    lines = []
    for a, b in compared:
        pairs = neighbours((own.variant == b, own.reported_first) for own in first.values() if own.variant in (a, b))
        if shares:
            found, how = largest_e((int(one), int(other)) for one, other in pairs), f"of {len(pairs)} pairs of users"
        else:
            higher = [one > other for one, other in pairs if one != other]
            found, how = (
                largest_e_of_rows(higher),
                f"of a sign test of {len(higher)} pairs of users with unequal outcomes",
            )
        said = "shown" if found >= enough else "not shown yet"
        lines.append(
            f"  whenever you look: a difference of {a} and {b} is {said} (largest e-value {found:.3g} {how}; "
            f"{enough:.0f} shows one)"
        )
    return lines


def _compared(adapters: dict[str, dict[str, list[float]]], resamples: int) -> list[Comparison]:
    generator = numpy.random.default_rng(0)
    sums = {name: numpy.array([sum(own) for own in users.values()]) for name, users in adapters.items()}
    counts = {name: numpy.array([len(own) for own in users.values()]) for name, users in adapters.items()}
    means = {name: float(sums[name].sum() / counts[name].sum()) for name in adapters}
    drawn = {name: _resampled(sums[name], counts[name], resamples, generator) for name in adapters}
    pairs = list(combinations(adapters, 2))
    values = [
        _permuted(
            numpy.concatenate([sums[a], sums[b]]), numpy.concatenate([counts[a], counts[b]]), len(sums[a]),
            resamples, generator,
        )
        for a, b in pairs
    ]  # fmt: skip
    comparisons = []
    for (a, b), p, adjusted in zip(pairs, values, holm(values), strict=True):
        low, high = numpy.percentile(drawn[a] - drawn[b], [2.5, 97.5]).tolist()
        count = int(counts[a].sum() + counts[b].sum())
        comparisons.append(Comparison(a, b, "outcome", means[a] - means[b], low, high, p, adjusted, count, (1, 1)))
    return comparisons


def _resampled(
    sums: numpy.ndarray, counts: numpy.ndarray, resamples: int, generator: numpy.random.Generator
) -> numpy.ndarray:
    """Return the mean outcome in each resample of users, (resamples,); sums and counts of outcomes are by user."""
    rows = (generator.integers(0, len(sums), len(sums)) for _ in range(resamples))
    return numpy.array([sums[own].sum() / counts[own].sum() for own in rows])


def _permuted(
    sums: numpy.ndarray, counts: numpy.ndarray, first: int, resamples: int, generator: numpy.random.Generator
) -> float:
    """Return the two-sided p of a permutation test; the first `first` users have one variant, the rest the other.

    One is added to both counts (Davison and Hinkley 1997, section 4.3).
    """

    def difference(users: numpy.ndarray) -> float:
        a, b = users[:first], users[first:]
        # Rounded, because equal means may differ in the last digit.
        return round(abs(float(sums[a].sum() / counts[a].sum() - sums[b].sum() / counts[b].sum())), 12)

    observed = difference(numpy.arange(len(sums)))
    as_large = sum(difference(generator.permutation(len(sums))) >= observed for _ in range(resamples))
    return (as_large + 1) / (resamples + 1)


def _read(log: str) -> dict[str, list[Outcome]]:
    """Return the outcomes in a log by split, in their order."""
    if log.lower().endswith(TABLES):
        return {Path(log).stem: _variants(log)}
    answers: dict[str, dict[str, Any]] = {}
    outcomes: dict[str, dict[str, Any]] = {}
    reported_first: dict[str, float] = {}
    for record in _records(log):
        if "outcome" in record:
            outcomes[record["id"]] = record
            reported_first.setdefault(record["id"], float(record["outcome"]))
        else:
            answers[record["id"]] = record
    found: dict[str, list[Outcome]] = {}
    for name, record in outcomes.items():
        # The answer may be in an earlier log; an outcome with a user is enough without it.
        if (answer := answers.get(name, record if "user" in record else None)) is None:
            raise UserError(f"outcomes.log: {log} has an outcome of {short(name)}, but no answer with that id")
        # An answer's id cannot be the digest of a user.
        user = answer.get("user") or name
        own = Outcome(answer["adapter"], user, float(record["outcome"]), reported_first[name])
        found.setdefault(answer["split"], []).append(own)
    return found


def _records(log: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a log, without a last line that a killed server left unfinished."""
    try:
        lines = list(read_lines(Path(log)))
    except UserError as error:
        raise UserError(f"outcomes.log: {error}") from None
    if len(lines) > 1 and not lines[-1][1].rstrip().endswith("}"):
        number, _ = lines.pop()
        notice(f"outcomes.log: {log}, line {number}: left out, because it is not finished")
    for number, line in lines:
        yield _record(line, f"{log}, line {number}")


def _variants(log: str) -> list[Outcome]:
    """Return the outcomes in a table; a row without a user counts as a separate one."""
    found: list[Outcome] = []
    try:
        for place, row in (one for batch in open_file(log).batches() for one in batch):
            if not found:
                _check_columns(log, row)
            variant, value = _cell(row["variant"]), _number(row["outcome"])
            if value is None or not variant:
                said = [short(repr(row[column])) for column in ("variant", "outcome")]
                raise UserError(f"{place}: expected a variant and a number as outcome, found {said[0]} and {said[1]}")
            user = _cell(row.get("user"))
            if user and names_nobody(user):
                raise UserError(f'{place}: the user is "{user}"; leave the cell empty if the user is unknown')
            # A place has a colon and a number; the mark keeps it apart from a user of that name.
            found.append(Outcome(variant, f"user {user}" if user else f"row {place}", value, value))
    except UserError as error:
        raise UserError(f"outcomes.log: {error}") from None
    return found


def _check_columns(log: str, columns: Collection[str]) -> None:
    """Raise `UserError` if a table lacks a column; report other columns, of which one may name the users."""
    for column in ("variant", "outcome"):
        if column not in columns:
            raise UserError(f"{log} has no column {column}{nearest(column, columns)}")
    if "user" in columns:
        return
    if near := [name for name in columns if _plain(name) in USERS]:
        raise UserError(f'{log} has no column user; rename its column "{short(near[0])}" to user')
    if others := [name for name in columns if name not in ("variant", "outcome")]:
        notice(
            f"outcomes.log: {log} has no column user, so each row counts as another user; if one of its other columns "
            f"identifies the users, rename it to user: {listed(others)}"
        )


def _plain(name: object) -> str:
    """Return a column's name in lower case, with its letters and digits alone."""
    return re.sub(r"[\W_]", "", str(name)).casefold()


def _cell(value: Any) -> str:
    """Return a cell as text; a number may stand for a variant or a user. Two forms of a letter (NFC) are the same."""
    return "" if value is None else unicodedata.normalize("NFC", str(value)).strip()


def _number(value: Any) -> float | None:
    """Return a value as a finite number; None if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record: Any = parse_json(line)
    except JsonError as error:
        raise UserError(f"outcomes.log: {place}: malformed JSON: {short(error)}") from None
    keys = ("id", "split", "adapter")
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in keys):
        raise UserError(f"outcomes.log: {place}: expected an object with the texts {listed(keys)}")
    if not isinstance(record.get("user"), (str, type(None))):
        raise UserError(f"outcomes.log: {place}: user: expected a text, found {short(repr(record['user']))}")
    value = record.get("outcome", 0)
    if isinstance(value, (bool, str)) or _number(value) is None:
        raise UserError(f"outcomes.log: {place}: outcome: expected a number, found {short(repr(value))}")
    return record
