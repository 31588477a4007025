"""A server for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from made_server import Served, make_runs, serving
from softprompts.config.tools import ServeConfig

import pytest


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs, the module's own."""
    return make_runs(tiny_model, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(tiny_model: Path, runs: Path) -> Iterator[Served]:
    """Return a server of these runs."""
    with serving(tiny_model, ServeConfig(folder=str(runs), max_new_tokens=64, max_body_bytes=20_000)) as one:
        yield one
