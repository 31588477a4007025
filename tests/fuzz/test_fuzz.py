"""Cases of the two fuzzers: 8 in `make test`, 100 in `make test-all`; `make fuzz` runs 2,000, of any seed."""

from __future__ import annotations

from pathlib import Path

from cases import make_stock, names_of, run_cases

import pytest

SEED = 1000  # another than make fuzz has by itself


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fuzz")
    make_stock(place)
    return place


QUICK = 8
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if i >= QUICK else []) for i, n in enumerate(names_of(100))]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_crashes_and_no_result_is_wrong(name: str, folder: Path) -> None:
    (found,) = run_cases([name], SEED, folder)
    assert found.faults == []
