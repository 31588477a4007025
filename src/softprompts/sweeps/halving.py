"""Successive halving: which candidates of a sweep go on (Jamieson and Talwalkar 2016; Li et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping


def rungs(candidates: int, reduction_factor: int | None) -> list[float]:
    """Return after which shares of a candidate's updates the worse ones leave, ascending; the last is 1.

    There are so many that one of the first candidates is left for the last: 1/8, 1/4, 1/2 and 1 for eight of them and a
    factor of two.
    """
    if reduction_factor is None:
        return [1.0]
    halvings = 0
    while reduction_factor**halvings < candidates:
        halvings += 1
    return [reduction_factor ** (k - halvings) for k in range(halvings + 1)]


def go_on(values: Mapping[int, float], reduction_factor: int) -> set[int]:
    """Return which candidates go on: the best 1/reduction_factor of all that came as far, rounded up.

    `values` holds what chooses the best, by the number of a candidate: the larger the better. Of equals the first
    go on.
    """
    best = sorted(values, key=lambda number: (-values[number], number))
    return set(best[: math.ceil(len(best) / reduction_factor)])
