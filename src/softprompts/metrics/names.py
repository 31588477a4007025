"""Check the names of metrics without the `evaluate` library, whose import takes seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from softprompts.errors import UserError, nearest, short

MODULES = Path(__file__).parent / "modules"
OWN = sorted(p.stem for p in MODULES.glob("*.py") if p.stem != "__init__")
KINDS = ("metric", "comparison", "measurement")  # owners of the modules that `evaluate` finds by a plain name


def check_names(names: Sequence[str]) -> None:
    """Raise `UserError` for an unknown metric, and for two metrics of one name.

    A metric is one of ours, a path, a module in the cache of `evaluate`, or one on the Hub.
    """
    seen: set[str] = set()
    for name in names:
        if not name.strip():
            raise UserError("task.metrics: expected the name of a metric, found an empty text")
        if Path(name).stem in seen:
            raise UserError(f'task.metrics: two metrics are named "{Path(name).stem}"; rename or remove one')
        seen.add(Path(name).stem)
        if name not in OWN and not Path(name).exists():
            _check_elsewhere(name)


def no_such_metric(name: str, why: str = "") -> UserError:
    """Return the error for an unknown metric."""
    return UserError(f'task.metrics: no metric "{short(name)}"{nearest(name, OWN)}{why}')


def _check_elsewhere(name: str) -> None:
    """Raise `UserError` if a module is neither in the cache nor on the Hub."""
    from huggingface_hub import HfApi, constants  # half a second, and is seldom needed

    ids = [f"evaluate-{kind}/{name}" for kind in KINDS] if "/" not in name else [name]
    if name.count("/") > 1 or Path(name).suffix == ".py":
        raise no_such_metric(name, "; there is no such file")
    modules = Path(os.environ.get("HF_MODULES_CACHE") or Path(constants.HF_HOME) / "modules")
    if any((modules / "evaluate_modules" / "metrics" / found.replace("/", "--")).is_dir() for found in ids):
        return
    if constants.HF_HUB_OFFLINE:
        raise no_such_metric(name)
    try:
        there = any(HfApi().repo_exists(found, repo_type="space") for found in ids)
    except Exception as error:  # many kinds of network errors
        raise no_such_metric(name, f"; the Hub cannot be reached ({type(error).__name__})") from error
    if not there:
        raise no_such_metric(name)
