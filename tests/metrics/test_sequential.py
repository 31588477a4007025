"""The e-value of two variants: its definition on few outcomes, its error without a difference, its power with one."""

from __future__ import annotations

from softprompts.metrics.sequential import PRIOR, largest_e, largest_e_of_rows, neighbours
from softprompts.metrics.significance import LEVEL

import numpy
import pytest


def test_a_pair_multiplies_it_by_its_likelihood_ratio() -> None:
    assert largest_e([]) == 1
    assert largest_e([(1, 0)]) == pytest.approx(1), "the first pair is met by equal shares"
    share = (1 + PRIOR) / (1 + 2 * PRIOR), PRIOR / (1 + 2 * PRIOR)
    mean = sum(share) / 2
    expected = share[0] / mean * (1 - share[1]) / (1 - mean)
    assert largest_e([(1, 0), (1, 0)]) == pytest.approx(expected)
    assert largest_e([(1, 0), (1, 0), (0, 1)]) == pytest.approx(expected), "the largest so far stays"


def test_neighbours_in_time_are_a_pair() -> None:
    """The outcomes here are numbers that tell which one it is."""
    order = [(False, 1), (False, 2), (True, 3), (True, 4), (True, 5), (False, 6), (False, 7)]
    assert neighbours(order) == [(2, 3), (1, 4), (6, 5)], "the newest that waits; the last one has no partner"
    assert neighbours(order[:4]) == neighbours(order)[:2], "later outcomes change no earlier pair"


@pytest.mark.parametrize("second", [0.5, 0.3, 0.1])
def test_shares_that_change_with_time_show_no_difference(second: float) -> None:
    """With nine users of ten in the first variant, its n-th user comes long before the n-th of the other."""
    generator = numpy.random.default_rng(2)
    shown = 0
    for _ in range(100):
        variants = generator.random(2000) < second
        outcomes = generator.random(2000) < numpy.linspace(0.2, 0.6, 2000)
        shown += largest_e(neighbours(zip(variants.tolist(), map(int, outcomes), strict=True))) >= 1 / LEVEL
    assert shown <= 8


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_without_a_difference_it_rarely_shows_one_however_often_one_looks(share: float) -> None:
    generator = numpy.random.default_rng(0)
    drawn = (generator.random((400, 2, 300)) < share).astype(int)
    shown = sum(largest_e(zip(first.tolist(), second.tolist(), strict=True)) >= 1 / LEVEL for first, second in drawn)
    assert shown <= 400 * LEVEL


def test_a_difference_is_shown() -> None:
    generator = numpy.random.default_rng(1)
    shown = 0
    for _ in range(50):
        first, second = generator.random((2, 400)) < numpy.array([[0.6], [0.4]])
        shown += largest_e(zip(map(int, first), map(int, second), strict=True)) >= 1 / LEVEL
    assert shown >= 40


def test_very_many_outcomes_have_room() -> None:
    assert 1e300 < largest_e([(1, 0)] * 5_000) < float("inf")


def test_a_row_multiplies_the_e_value_of_rows_by_twice_its_probability() -> None:
    assert largest_e_of_rows([]) == 1
    assert largest_e_of_rows([True]) == pytest.approx(1), "a fair coin before the first row"
    assert largest_e_of_rows([True, True]) == pytest.approx(2 * 1.5 / 2)
    assert largest_e_of_rows([True, True, False, False]) == pytest.approx(1.5), "the largest so far stays"
    assert largest_e_of_rows([False] * 9) == pytest.approx(largest_e_of_rows([True] * 9))
    assert 1e300 < largest_e_of_rows([True] * 5_000) < float("inf")


def test_rows_without_a_difference_rarely_show_one_however_often_one_looks() -> None:
    generator = numpy.random.default_rng(3)
    shown = sum(largest_e_of_rows((generator.random(400) < 0.5).tolist()) >= 1 / LEVEL for _ in range(1000))
    assert shown <= 1000 * LEVEL


def test_a_model_that_is_better_on_more_rows_is_shown() -> None:
    generator = numpy.random.default_rng(4)
    shown = sum(largest_e_of_rows((generator.random(200) < 0.7).tolist()) >= 1 / LEVEL for _ in range(100))
    assert shown >= 95
