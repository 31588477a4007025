"""The study's screens: sweeps by successive halving, on validation, of every method and of ways to start and to train.

    python -m benchmarks.study --config configs/study/screens.yaml

The program first prints how long the screens will take; with `--launch.plan true` it ends there. A screen that has a
record is not run again, and a screen that was stopped continues. `--workers.ray auto` runs screens side by side. The
output of a sweep is in a file next to its folder, `runs/study/TASK/SCREEN.log.txt`.

Exit codes: 0 if every screen has its record; 1 if a sweep failed; 2 and one line for an error that you can fix; 130 or
143 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.jobs import Process, WorkersConfig, run_jobs
from benchmarks.study.settings import (
    ScreenConfig,
    StudyConfig,
    base_of,
    check,
    check_order,
    check_record,
    config_of,
    record_of,
)
from benchmarks.tasks.record import record_of_config
from softprompts.config.cli import cli
from softprompts.errors import UserError, nearest
from softprompts.runs.folders import RESULT_FILE
from softprompts.runs.record import load_result, spoken
from softprompts.sweeps.halving import rungs
from softprompts.system import locks
from softprompts.system.files import write_atomically

import yaml

UNKNOWN = 600.0  # seconds of a run that has no record


@dataclass
class LaunchConfig:
    """Folders of the study, and the screens to run.

    Args:
        records: folder of the records.
        runs: folder of the runs.
        plan: print the screens that are left and their expected time, and run nothing.
        only: screens to run, or their tasks; by default all.
    """

    records: str = "results/study"
    runs: str = "runs/study"
    plan: bool = False
    only: list[str] | None = None


def main(study: StudyConfig, launch: LaunchConfig, workers: WorkersConfig) -> None:
    """Run every screen that has no record."""
    check(study)
    mine = wanted(study, launch.only)
    files = {name: Path(launch.records) / f"{name}.json" for name in mine}
    left = [name for name in mine if not files[name].is_file()]
    for name in mine:
        if name not in left:
            check_record(study, name, files[name])
    for name in left:
        check_order(study, name, Path(launch.records))
    seconds = {name: expected(study, name) for name in left}
    print(
        f"{len(mine)} screens, {len(mine) - len(left)} of them recorded; about {spoken(sum(seconds.values()))} for the "
        "others, one after another, on a machine like that of the records",
        flush=True,
    )
    if launch.plan:
        for name in left:
            print(f"  {name}: {candidates(study.screens[name])} candidates, about {spoken(seconds[name])}")
        return
    runs = Path(launch.runs)
    runs.mkdir(parents=True, exist_ok=True)
    locks.own(runs, "launch.runs")
    failed = []

    def start(name: str) -> Process:
        folder = runs / name
        config = folder.with_name(f"{folder.name}.yaml")
        config.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(config, yaml.safe_dump(config_of(study, name, folder), sort_keys=False, allow_unicode=True))
        arguments = ["recipes/sweep.py", "--config", str(config), "--resume"]
        return Process(arguments, folder, study.screens[name].mixed_precision)

    def keep_and_print(name: str, code: int, line: str) -> None:
        if code:
            failed.append(name)
            print(f"{name}: failed: {line}", flush=True)
        else:
            screen = study.screens[name]
            record = keep(runs / name, files[name], screen, base_of(name, screen))
            print(f"{name}: {record['chosen']} in {spoken(record['cost']['seconds_total'])}", flush=True)

    run_jobs(left, start, keep_and_print, workers)
    locks.release(runs)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


def wanted(study: StudyConfig, only: list[str] | None) -> list[str]:
    """Return the names of the screens to run; `UserError` for a name that is neither a screen nor a task."""
    tasks = {name.split("/")[0] for name in study.screens}
    for name in only or ():
        if name not in {*study.screens, *tasks}:
            raise UserError(f'launch.only: "{name}"{nearest(name, [*tasks, *study.screens])}')
    return [n for n in study.screens if only is None or {n, n.split("/")[0]} & set(only)]


def keep(folder: Path, file: Path, screen: ScreenConfig, base: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a finished sweep.

    Raises:
        UserError: it was measured with uncommitted changes.
    """
    source = folder / RESULT_FILE
    if "+changes" in load_result(source).environment["commit"]:
        raise UserError(f"{source}: measured with uncommitted changes; commit, then run it anew")
    record = record_of(json.loads(source.read_text(encoding="utf-8")), screen, base)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def candidates(screen: ScreenConfig) -> int:
    """Return how many candidates a screen begins with."""
    return prod(map(len, [*screen.grid.values(), *screen.factors.values()])) * max(1, len(screen.seeds))


def expected(study: StudyConfig, name: str) -> float:
    """Return the seconds that a screen takes without extensions: runs as long as the shipped one, and their shares."""
    screen = study.screens[name]
    record = record_of_config(name.split("/")[0], screen.recipe)
    one = load_result(record).cost["seconds_training"] if record.is_file() else UNKNOWN
    count, runs = candidates(screen), 0.0
    if screen.seeds:
        return one * count
    for before, rung in itertools.pairwise([0.0, *rungs(count, study.reduction_factor, study.first_rung)]):
        runs += count * (rung - before)
        count = -(-count // study.reduction_factor)
    return one * runs


if __name__ == "__main__":
    cli(main)
