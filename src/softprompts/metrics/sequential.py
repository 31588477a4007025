"""A test of two variants that may be looked at any number of times, while outcomes come in."""

from __future__ import annotations

import math
from collections.abc import Sequence

PRIOR = 0.18  # successes and failures that are assumed before the first pair: the default of the authors, in safestats


def largest_e(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the largest e-value so far of the hypothesis that two variants have the same share of successes.

    Under this hypothesis it reaches 1 / level with at most the probability of the level, however often one looks
    (Ville's inequality). Outcomes are taken in pairs, the n-th of both variants. A pair multiplies the e-value by its
    likelihood under the shares estimated from earlier pairs, over that under the mean of the two shares (Turner, Ly and
    Grünwald 2024, "Generic E-variables for exact sequential k-sample tests that allow for optional stopping").

    Args:
        first: outcomes of one variant, 0 or 1, in the order of their arrival, of independent users.
        second: those of the other. What one variant has beyond the other is not used.
    """
    sums, logarithm, largest = [0, 0], 0.0, 0.0
    for number, pair in enumerate(zip(first, second, strict=False)):
        shares = [(total + PRIOR) / (number + 2 * PRIOR) for total in sums]
        same = sum(shares) / 2
        for outcome, share in zip(pair, shares, strict=True):
            logarithm += math.log(share / same if outcome else (1 - share) / (1 - same))
        largest = max(largest, logarithm)
        sums = [total + outcome for total, outcome in zip(sums, pair, strict=True)]
    return math.exp(min(largest, 700.0))  # beyond, a float has no room
