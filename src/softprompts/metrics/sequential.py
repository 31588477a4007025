"""A test of two variants that may be looked at any number of times, while outcomes come in."""

from __future__ import annotations

import math
from collections.abc import Iterable

PRIOR = 0.18  # successes and failures that are assumed before the first pair: the default of the authors, in safestats


def neighbours(outcomes: Iterable[tuple[bool, float]]) -> list[tuple[float, float]]:
    """Return pairs of outcomes for a test: each outcome with the newest one of the other variant that still waits.

    Shares may change with time. If one variant has more users, its n-th user comes long before the n-th of the other.
    Neighbours in time have almost the same share under the hypothesis. Pairs depend on the order of the variants alone,
    never on outcomes, and later outcomes change no earlier pair.

    Args:
        outcomes: for each user, in the order of arrival: whether the second variant was shown, and the outcome.
    """
    waiting: list[tuple[bool, float]] = []
    pairs = []
    for second, outcome in outcomes:
        if waiting and waiting[-1][0] != second:
            _, other = waiting.pop()
            pairs.append((other, outcome) if second else (outcome, other))
        else:
            waiting.append((second, outcome))
    return pairs


def largest_e(pairs: Iterable[tuple[int, int]]) -> float:
    """Return the largest e-value so far of the hypothesis that two variants have the same share of successes.

    Under this hypothesis it reaches 1 / level with at most the probability of the level, however often one looks
    (Ville's inequality). A pair multiplies the e-value by its likelihood under the shares estimated from earlier pairs,
    over that under the mean of the two shares (Turner, Ly and Grünwald 2024, "Generic E-variables for exact sequential
    k-sample tests that allow for optional stopping").

    Args:
        pairs: outcomes of both variants, 0 or 1, of independent users; see `neighbours`.
    """
    sums, logarithm, largest = [0, 0], 0.0, 0.0
    for number, pair in enumerate(pairs):
        shares = [(total + PRIOR) / (number + 2 * PRIOR) for total in sums]
        same = sum(shares) / 2
        for outcome, share in zip(pair, shares, strict=True):
            logarithm += math.log(share / same if outcome else (1 - share) / (1 - same))
        largest = max(largest, logarithm)
        sums = [total + outcome for total, outcome in zip(sums, pair, strict=True)]
    return math.exp(min(largest, 700.0))  # beyond, a float has no room


def largest_e_of_rows(wins: Iterable[bool]) -> float:
    """Return the largest e-value so far of the hypothesis that two models are equally often the better one on a row.

    This is the sign test, and for right and wrong answers McNemar's, in a form that stays valid while rows are added.
    Each row multiplies the e-value by twice the probability that earlier rows gave to its winner: a bet against a
    fair coin that never expects to win (Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid
    inference", section 2; Krichevsky and Trofimov 1981 for the estimate).

    It is also the test of two variants in pairs of users, if outcomes are other numbers than 0 and 1.

    Args:
        wins: for each row with different scores, in the order of arrival: whether the first model is better.
    """
    counts, logarithm, largest = [0.5, 0.5], 0.0, 0.0  # Krichevsky and Trofimov's half a row for each
    for win in wins:
        logarithm += math.log(2 * counts[win] / sum(counts))
        counts[win] += 1
        largest = max(largest, logarithm)
    return math.exp(min(largest, 700.0))
