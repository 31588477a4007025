"""Plan a comparison of two variants: the data that shows a difference, and the power of the present data."""

from __future__ import annotations

import math
from statistics import NormalDist

from softprompts.metrics.significance import LEVEL

POWER = 0.8
Z = NormalDist().inv_cdf(1 - LEVEL / 2)
SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the needed data, in the table of powers


def rows_needed(difference: float, disagree: float) -> int:
    """Return the rows on which two models must be compared: two-sided level 5 %, power 80 %.

    The test is McNemar's, of the rows that only one of the two has right (Connor 1987, Biometrics 43).

    Args:
        difference: of the shares of right answers, from 0 to 1.
        disagree: share of rows that exactly one of the two has right; at least the difference.
    """
    spread = math.sqrt(disagree - difference**2)
    root = Z * math.sqrt(disagree) + NormalDist().inv_cdf(POWER) * spread
    return math.ceil((root / difference) ** 2)


def disagreement(first: float, second: float) -> float:
    """Return the share of rows that exactly one of two models has right, if their answers are independent."""
    return first * (1 - second) + second * (1 - first)


def power_of_rows(difference: float, disagree: float, rows: int) -> float:
    """Return the power of the test of `rows_needed` with this number of rows."""
    reached = difference * math.sqrt(rows) - Z * math.sqrt(disagree)
    return NormalDist().cdf(reached / max(1e-9, math.sqrt(disagree - difference**2)))


def users_needed(reference: float, target: float) -> int:
    """Return the users of each variant of an A/B test of two shares: two-sided level 5 %, power 80 %.

    The test compares two proportions, with a pooled variance (Fleiss, Levin and Paik 2003, chapter 4).

    Args:
        reference: share of successes with one variant, from 0 to 1.
        target: share of successes with the other variant.
    """
    root = Z * _pooled(reference, target) + NormalDist().inv_cdf(POWER) * _separate(reference, target)
    return math.ceil((root / (target - reference)) ** 2)


def power_of_users(reference: float, target: float, users: int) -> float:
    """Return the power of the test of `users_needed` with this number of users per variant."""
    reached = abs(target - reference) * math.sqrt(users) - Z * _pooled(reference, target)
    return NormalDist().cdf(reached / max(1e-9, _separate(reference, target)))


def _pooled(reference: float, target: float) -> float:
    mean = (reference + target) / 2
    return math.sqrt(2 * mean * (1 - mean))


def _separate(reference: float, target: float) -> float:
    return math.sqrt(reference * (1 - reference) + target * (1 - target))


def plan_lines(reference: float, target: float, disagree: float | None, rows: int | None) -> list[str]:
    """Return lines with the needs of a comparison: rows for two models on the same rows, and users for an A/B test.

    Args:
        reference: share of right answers, or of successes, that one variant is expected to reach, from 0 to 1.
        target: the other variant's share.
        disagree: share of rows that exactly one of two models has right; the default assumes independent answers.
        rows: number of present rows, whose power is added.
    """
    difference = abs(target - reference)
    disagree = disagreement(reference, target) if disagree is None else disagree
    needed, users = rows_needed(difference, disagree), users_needed(reference, target)
    certain = f"with a power of {100 * POWER:.0f} % at a level of {100 * LEVEL:.0f} %"
    apart = f"if exactly one is right on {100 * disagree:.1f} % of them"
    lines = [
        f"To show {100 * target:.1f} % against {100 * reference:.1f} % {certain}:",
        f"  on the same rows (McNemar's test): {needed:,} rows, {apart}",
        f"  in an A/B test (two proportions): {users:,} users of each variant",
        "",
        "power       rows      power      users of each variant",
    ]
    for share in SHARES:
        one, other = math.ceil(share * needed), math.ceil(share * users)
        powers = power_of_rows(difference, disagree, one), power_of_users(reference, target, other)
        lines.append(f"{100 * powers[0]:3.0f} %  {one:>9,}      {100 * powers[1]:3.0f} %  {other:>9,}")
    if rows is not None:
        power = power_of_rows(difference, disagree, rows)
        lines += ["", f"With {rows:,} rows the power is {100 * power:.0f} %: {_judged(power)}."]
    return lines


def _judged(power: float) -> str:
    return "enough" if power >= POWER else "a real difference of this size would often not be shown"
