"""200 cases of the two fuzzers; `make fuzz` runs 2,000, of any seed."""

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


@pytest.mark.parametrize("name", names_of(200))
def test_nothing_crashes_and_no_result_is_wrong(name: str, folder: Path) -> None:
    (found,) = run_cases([name], SEED, folder)
    assert found.faults == []
