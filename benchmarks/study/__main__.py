"""The study's screens: sweeps by successive halving on validation, of every method and of ways to start and to train.

    python -m benchmarks.study --config configs/study/screens.yaml

First it prints how long all of it will take; `--launch.plan true` ends there. A screen that has a record is not made
again, one that was stopped goes on where it stood. Start it several times: the launches share the screens. What a
sweep says is beside its folder, in `runs/study/TASK/SCREEN.log.txt`.

Ends with exit code 2 and one line for an error that you can mend, 130 or 143 after Ctrl-C or SIGTERM, 1 where a sweep
failed, 0 when every screen has its record.
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
    """Where the study keeps what it makes.

    Args:
        records: folder of the records.
        runs: folder of the runs.
        plan: print what there is to do and how long it will take, and do nothing.
        only: screens to run, or the tasks of them; by default all.
    """

    records: str = "results/study"
    runs: str = "runs/study"
    plan: bool = False
    only: list[str] | None = None


def main(study: StudyConfig, launch: LaunchConfig) -> None:
    """Make every screen that has no record yet."""
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
    """Run a screen's sweep, unless another launch does; say whether nothing failed."""
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
        raise UserError(f"{source}: measured with uncommitted changes; commit, then run it anew")
    record = record_of(json.loads(source.read_text(encoding="utf-8")), screen)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def candidates(screen: ScreenConfig) -> int:
    """Return how many candidates a screen begins with."""
    return prod(map(len, screen.grid.values())) * max(1, len(screen.seeds))


def expected(study: StudyConfig, name: str) -> float:
    """Return the seconds that a screen takes without extensions: runs as long as the shipped one, and their shares."""
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
