"""Exposure of a secret (Carlini et al. 2019, "The Secret Sharer", section 4), from losses of the secret and of others.

The exposure of a secret is log2 |R| - log2 rank: |R| is the number of possible secrets, and rank is the secret's place
among them by the model's loss, the likeliest first. It is thus minus log2 of the share of R that is at least as likely.
Without any memory, the share is uniform: the median exposure is 1 bit, and the mean is 1.44 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from scipy.stats import beta, skewnorm

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Exposure:
    """Bits of exposure.

    rank: place of the secret among the sampled candidates and itself, from 1.
    sampled: log2 of (candidates + 1) / rank, section 4.3 "approximation by sampling". At most log2 of candidates + 1.
    at_least: with 95 % confidence the exposure is at least this (one-sided, exact, Clopper and Pearson).
    fitted: section 4.3 "approximation by distribution modeling": a skew-normal distribution fitted to the candidates'
        losses gives the share below the secret's loss. At most log2 |R|.
    """

    rank: int
    sampled: float
    at_least: float
    fitted: float


def exposure(secret: float, candidates: Sequence[float], digits: int) -> Exposure:
    """Return the exposure of a secret.

    Args:
        secret: its loss in nats; candidates: the losses of random secrets; digits: of a secret.
    """
    losses = numpy.asarray(candidates, dtype=float)
    ahead = int((losses <= secret).sum())  # equal losses count as ahead, so that a constant model exposes nothing
    share = float(beta.ppf(CONFIDENCE, ahead + 1, len(losses) - ahead)) if ahead < len(losses) else 1.0
    most = digits * math.log2(10)
    return Exposure(
        rank=ahead + 1,
        sampled=math.log2((len(losses) + 1) / (ahead + 1)),
        at_least=abs(math.log2(share)),
        fitted=min(most, _fitted(secret, losses)),
    )


def _fitted(secret: float, losses: numpy.ndarray) -> float:
    if losses.std() == 0:
        return 0.0 if secret >= losses[0] else math.inf
    shape, location, scale = skewnorm.fit(losses)
    below = float(skewnorm.logcdf(secret, shape, loc=location, scale=scale))
    return max(0.0, -below / math.log(2)) if not math.isnan(below) else math.inf
