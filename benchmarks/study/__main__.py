"""Run the study's screens: sweeps by successive halving on validation, of methods, initial values and ways of training.

    python -m benchmarks.study --config configs/study/screens.yaml

First it prints the expected time; `--launch.plan true` ends there. A screen with a record does not run again, and a
stopped screen continues. Several launches at the same time share the screens. The output of a sweep is next to its
folder, in `runs/study/TASK/SCREEN.log.txt`.

The exit code is 0 when every screen has its record, and 1 if a sweep failed. It is 2, with one line, for an error that
you can fix, and 130 or 143 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.grid.estimate import spoken
from benchmarks.processes import claimed, launched
from benchmarks.study.settings import ScreenConfig, StudyConfig, check, config_of, record_of
from softprompts.config.cli import cli
from softprompts.errors import UserError, nearest
from softprompts.runs.folders import RESULT_FILE
from softprompts.runs.record import load_result
from softprompts.sweeps.halving import rungs
from softprompts.system.files import write_atomically

import yaml

TASKS = Path("results/tasks")
UNKNOWN = 600.0  # seconds of a run that has no record


@dataclass
class LaunchConfig:
    """Folders of the study, and the screens to run.

    Args:
        records: folder of the records.
        runs: folder of the runs.
        plan: only print the remaining screens and their expected time.
        only: screens to run, or tasks whose screens to run; by default all.
    """

    records: str = "results/study"
    runs: str = "runs/study"
    plan: bool = False
    only: list[str] | None = None


def main(study: StudyConfig, launch: LaunchConfig) -> None:
    """Run every screen that has no record yet."""
    check(study)
    tasks = {name.split("/")[0] for name in study.screens}
    for wanted in launch.only or ():
        if wanted not in {*study.screens, *tasks}:
            raise UserError(f'launch.only: "{wanted}"{nearest(wanted, [*tasks, *study.screens])}')
    mine = [n for n in study.screens if launch.only is None or {n, n.split("/")[0]} & set(launch.only)]
    files = {name: Path(launch.records) / f"{name}.json" for name in mine}
    left = [name for name in mine if not files[name].is_file()]
    seconds = {name: expected(study, name) for name in left}
    print(
        f"{len(mine)} screens, {len(mine) - len(left)} of them recorded; about {spoken(sum(seconds.values()))} for the "
        "others on a machine like that of the records",
        flush=True,
    )
    if launch.plan:
        for name in left:
            print(f"  {name}: {candidates(study.screens[name])} candidates, about {spoken(seconds[name])}")
        return
    failed = [name for name in left if not make(study, name, Path(launch.runs) / name, files[name])]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


def make(study: StudyConfig, name: str, folder: Path, file: Path) -> bool:
    """Run a screen's sweep, unless another launch runs it; return whether it did not fail."""
    with claimed(folder) as lock:
        if lock is None or file.is_file():
            return True
        config = folder.with_name(f"{folder.name}.yaml")
        write_atomically(config, yaml.safe_dump(config_of(study, name, folder), sort_keys=False, allow_unicode=True))
        code, reason = launched(["recipes/sweep.py", "--config", str(config), "--resume"], folder, lock)
        if code:
            print(f"{name}: failed: {reason}", flush=True)
            return False
        record = keep(folder, file, study.screens[name])
    print(f"{name}: {record['chosen']} in {spoken(record['cost']['seconds_total'])}", flush=True)
    return True


def keep(folder: Path, file: Path, screen: ScreenConfig) -> dict[str, Any]:
    """Write the record of a finished sweep.

    Raises:
        UserError: it was measured with uncommitted changes.
    """
    source = folder / RESULT_FILE
    if "+changes" in load_result(source).environment["commit"]:
        raise UserError(f"{source}: measured with uncommitted changes; commit, then run it again")
    record = record_of(json.loads(source.read_text(encoding="utf-8")), screen)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def candidates(screen: ScreenConfig) -> int:
    """Return the number of candidates at the start of a screen."""
    return prod(map(len, screen.grid.values())) * max(1, len(screen.seeds))


def expected(study: StudyConfig, name: str) -> float:
    """Return the expected seconds of a screen without extensions, from the time of the shipped config's run."""
    screen = study.screens[name]
    record = TASKS / name.split("/")[0] / f"{screen.recipe}.json"
    one = load_result(record).cost["seconds_training"] if record.is_file() else UNKNOWN
    count, runs = candidates(screen), 0.0
    if screen.seeds:
        return one * count
    for before, rung in itertools.pairwise([0.0, *rungs(count, study.reduction_factor)]):
        runs += count * (rung - before)
        count = -(-count // study.reduction_factor)
    return one * runs


if __name__ == "__main__":
    cli(main)
