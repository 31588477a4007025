"""Successive halving of a sweep's candidates (Jamieson and Talwalkar 2016; Li et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping


def rungs(candidates: int, reduction_factor: int | None, first: float | None = None) -> list[float]:
    """Return the shares of a candidate's steps after which the worse candidates leave, ascending; the last is 1.

    At the last share one of the first candidates is left. For eight candidates and a factor of two the shares are 1/8,
    1/4, 1/2 and 1.

    Args:
        candidates: number of candidates at the beginning.
        reduction_factor: factor by which the candidates become fewer at each share; None if none leave.
        first: smallest share. If the first share is smaller, as many shares follow from this one, each larger than the
            one before by the same factor. For eight candidates, a factor of two and 0.343: 0.343, 0.49, 0.7 and 1.
    """
    if reduction_factor is None:
        return [1.0]
    halvings = 0
    while reduction_factor**halvings < candidates:
        halvings += 1
    shares = [reduction_factor ** (k - halvings) for k in range(halvings + 1)]
    if first is None or shares[0] >= first:
        return shares
    return [first ** (1 - k / halvings) for k in range(halvings + 1)]


def go_on(values: Mapping[int, tuple[float, float]], reduction_factor: int) -> set[int]:
    """Return the candidates that continue: the best 1/reduction_factor of all that came as far, rounded up.

    `values` are the scores of the choice, by the number of a candidate; larger is better. The second score decides
    among equal first ones. Among equals in both, the first ones continue.
    """
    best = sorted(values, key=lambda number: (-values[number][0], -values[number][1], number))
    return set(best[: math.ceil(len(best) / reduction_factor)])
