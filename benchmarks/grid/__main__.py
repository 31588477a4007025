"""The benchmark: every method with every seed on one task, each setting chosen on validation before test is seen.

    python -m benchmarks.grid --config configs/benchmarks/sentiment.yaml

First it prints how long all of it will take; `--launch.plan true` ends there. A job that has a record is not made
again, a run that was stopped goes on where it stood, one that failed leaves its reason in place of its record, and
`--launch.retry true` tries it again. Start it several times, on a GPU say: the launches share the jobs. What a run says
stands beside its folder, in `runs/benchmarks/NAME/METHOD/seedN.log.txt`.

Ends with exit code 2 and one line for an error that you can mend, 130 or 143 after Ctrl-C or SIGTERM, 1 where a run
failed, 0 when every job has its record.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.grid.estimate import expected, spoken
from benchmarks.grid.plan import Job, check, command, jobs, name_of
from benchmarks.grid.records import (
    check_choices,
    done,
    drop_checkpoints,
    failure_of,
    keep_failure,
    keep_grid,
    keep_run,
    keep_sweep,
)
from benchmarks.grid.settings import GridConfig
from benchmarks.processes import claimed, launched
from softprompts.config.cli import cli
from softprompts.errors import UserError, nearest

PROBE = "-mbenchmarks.grid.probe"  # one word, as the path of a recipe is
WAIT = 5.0  # seconds between looks at what other launches are doing


@dataclass
class LaunchConfig:
    """Where a benchmark keeps what it makes.

    Args:
        records: folder of the records, one below it for each benchmark.
        runs: folder of the runs, likewise.
        plan: print what there is to do and how long it will take, and do nothing.
        retry: try again what failed.
        only: methods to run; by default all.
    """

    records: str = "results/benchmarks"
    runs: str = "runs/benchmarks"
    plan: bool = False
    retry: bool = False
    only: list[str] | None = None


def main(grid: GridConfig, launch: LaunchConfig) -> None:
    """Do every job that has no record yet."""
    check(grid, Path(launch.runs))
    for method in launch.only or ():
        if method not in grid.methods:
            raise UserError(f'launch.only: "{method}"{nearest(method, grid.methods)}')
    folder = Path(launch.records) / name_of(grid)
    everything = jobs(grid, Path(launch.runs))
    mine = [job for job in everything if launch.only is None or job.method in launch.only]
    if launch.retry and not launch.plan:
        for job in mine:
            failure_of(folder, job).unlink(missing_ok=True)
    left = [job for job in mine if not done(folder, job)]
    seconds = expected(grid, mine, folder)
    print(
        f"{name_of(grid)}: {len(grid.methods)} methods: {len(mine)} jobs, "
        f"{len(mine) - len(left)} of them recorded; about {spoken(sum(seconds[job] for job in left))} for the others "
        "on a machine like that of the records",
        flush=True,
    )
    if launch.plan:
        for job in left:
            print(f"  {job.name}: about {spoken(seconds[job])}")
        return
    keep_grid(grid, folder)
    if not any(job.kind == "sweep" for job in left):  # else they may choose otherwise once more
        check_choices(folder, Path(launch.runs))
    work(grid, folder, everything, left)
    check_choices(folder, Path(launch.runs))
    failed = sum(failure_of(folder, job).is_file() for job in mine)
    if failed:
        print(f"{failed} of {len(mine)} jobs failed: {folder}/**/*.failed.json", file=sys.stderr)
        raise SystemExit(1)


def work(grid: GridConfig, folder: Path, everything: list[Job], left: list[Job]) -> None:
    """Do the jobs that are left, those of other launches excepted."""
    total = len(left)
    while left:
        before = len(left)
        for job in list(left):
            if not done(folder, job):
                if not ready(grid, folder, everything, job):
                    continue
                with claimed(job.folder) as lock:
                    if lock is None:
                        continue
                    if not done(folder, job):
                        said = do(grid, folder, everything, job, lock)
                        rest = expected(grid, left, folder)
                        time_left = spoken(sum(rest[other] for other in left if not done(folder, other)))
                        print(f"[{total - len(left) + 1}/{total}] {job.name}: {said}; {time_left} left", flush=True)
            left.remove(job)
        if len(left) == before:
            time.sleep(WAIT)


def ready(grid: GridConfig, folder: Path, everything: list[Job], job: Job) -> bool:
    """Say whether all that a job builds on is done: the sweep of its method, the run that it probes."""
    if job.kind == "sweep":
        return True
    if job.kind == "probe":
        run = next(j for j in everything if (j.kind, j.method, j.number) == ("run", job.method, job.number))
        return done(folder, run)
    return all(done(folder, j) for j in sweep_of(everything, job))


def sweep_of(everything: list[Job], job: Job) -> list[Job]:
    """Return the points of the sweep of a job's method."""
    return [j for j in everything if (j.kind, j.method) == ("sweep", job.method)]


def do(grid: GridConfig, folder: Path, everything: list[Job], job: Job, lock: int) -> str:
    """Do a job, keep what it leaves, and return what there is to say of it."""
    chosen: dict[str, Any] | None = {}
    if job.kind == "run" and (sweep := sweep_of(everything, job)):
        chosen = keep_sweep(grid, folder, sweep)
    run = [PROBE, *probe_flags(grid, folder, job)] if job.kind == "probe" else []
    run = run or command(grid, job, chosen or {})
    if chosen is None:
        code, reason = 1, "every point of its sweep failed"
    elif job.kind == "probe" and not (folder / job.method / f"seed{job.number}.json").is_file():
        code, reason = 1, "the run that it probes failed"
    else:
        code, reason = launched(run, job.folder, lock, grid.methods[job.method].mixed_precision)
    if code:
        keep_failure(folder, job, run, code, reason)
        return f"failed: {reason}"
    drop_checkpoints(job)
    if job.kind == "sweep":
        points = sweep_of(everything, job)
        if all(done(folder, point) for point in points):
            best = keep_sweep(grid, folder, points)
            return f"validated; the sweep chooses {best}"
        return "validated"
    if job.kind == "probe":
        return "kept"
    result = keep_run(folder, job)
    numbers = ", ".join(f"{name} {100 * x.value:.1f} %" for name, x in result.metrics.items())
    return f"{numbers} in {spoken(result.cost['seconds_total'])}"


def probe_flags(grid: GridConfig, folder: Path, job: Job) -> list[str]:
    """Return the arguments of the probes of a run."""
    record = folder / job.method / f"seed{job.number}.probes.json"
    flags = ["--probe.run", str(job.folder), "--probe.record", str(record), "--probe.what", str(grid.probes)]
    flags += ["--probe.sampled_rows", str(grid.sampled_rows)]
    if grid.transfer:
        flags += ["--probe.transfer", json.dumps(grid.transfer), "--probe.transfer_rows", str(grid.transfer_rows)]
    return flags


if __name__ == "__main__":
    cli(main)
