"""Cases of the fuzzers: 8 in `make test`, 92 more in `make test-all`; `make fuzz` runs 5,000, of any seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cases import make_stock, names_of, run_cases

import pytest

SEED = 1000  # not the default seed of make fuzz
QUICK = 8
NAMES = names_of(100)


@pytest.fixture(scope="session")
def folder(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    return once("fuzz", make_stock)


def test_nothing_crashes_and_no_result_is_wrong(folder: Path) -> None:
    # A single test, because each worker with a test of this kind imports the libraries again.
    assert {case.name: case.faults for case in run_cases(NAMES[:QUICK], SEED, folder)} == {
        name: [] for name in NAMES[:QUICK]
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[QUICK:])
def test_nothing_crashes_and_no_result_is_wrong_in_further_cases(name: str, folder: Path) -> None:
    (found,) = run_cases([name], SEED, folder)
    assert found.faults == []
