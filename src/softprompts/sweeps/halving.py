"""Successive halving of a sweep's candidates (Jamieson and Talwalkar 2016; Li et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping


def rungs(candidates: int, reduction_factor: int | None) -> list[float]:
    """Return the shares of a candidate's steps after which the worse candidates leave, ascending; the last is 1.

    At the last share one of the first candidates is left. For eight candidates and a factor of two the shares are 1/8,
    1/4, 1/2 and 1.
    """
    if reduction_factor is None:
        return [1.0]
    halvings = 0
    while reduction_factor**halvings < candidates:
        halvings += 1
    return [reduction_factor ** (k - halvings) for k in range(halvings + 1)]


def go_on(values: Mapping[int, tuple[float, float]], reduction_factor: int) -> set[int]:
    """Return the candidates that continue: the best 1/reduction_factor of all that came as far, rounded up.

    `values` are the scores of the choice, by the number of a candidate; larger is better. The second score decides
    among equal first ones. Among equals in both, the first ones continue.
    """
    best = sorted(values, key=lambda number: (-values[number][0], -values[number][1], number))
    return set(best[: math.ceil(len(best) / reduction_factor)])
