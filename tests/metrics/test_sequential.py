"""The e-value of two variants: its definition on few outcomes, its error without a difference, its power with one."""

from __future__ import annotations

from softprompts.metrics.sequential import PRIOR, largest_e
from softprompts.metrics.significance import LEVEL

import numpy
import pytest


def test_a_pair_multiplies_it_by_its_likelihood_ratio() -> None:
    assert largest_e([], []) == 1
    assert largest_e([1], [0]) == pytest.approx(1), "the first pair is met by equal shares"
    share = (1 + PRIOR) / (1 + 2 * PRIOR), PRIOR / (1 + 2 * PRIOR)
    mean = sum(share) / 2
    expected = share[0] / mean * (1 - share[1]) / (1 - mean)
    assert largest_e([1, 1], [0, 0]) == pytest.approx(expected)
    assert largest_e([1, 1, 0], [0, 0]) == pytest.approx(expected), "what has no partner is not used"
    assert largest_e([1, 1, 0], [0, 0, 1]) == pytest.approx(expected), "the largest so far stays"


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_without_a_difference_it_rarely_shows_one_however_often_one_looks(share: float) -> None:
    generator = numpy.random.default_rng(0)
    drawn = (generator.random((400, 2, 300)) < share).astype(int)
    shown = sum(largest_e(first.tolist(), second.tolist()) >= 1 / LEVEL for first, second in drawn)
    assert shown <= 400 * LEVEL


def test_a_difference_is_shown() -> None:
    generator = numpy.random.default_rng(1)
    shown = 0
    for _ in range(50):
        first, second = generator.random((2, 400)) < numpy.array([[0.6], [0.4]])
        shown += largest_e(first.astype(int).tolist(), second.astype(int).tolist()) >= 1 / LEVEL
    assert shown >= 40


def test_very_many_outcomes_have_room() -> None:
    assert 1e300 < largest_e([1] * 5_000, [0] * 5_000) < float("inf")
