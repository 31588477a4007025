"""The benchmark: every method with every seed on one task. Validation chooses each setting before test is scored.

    python -m benchmarks.grid --config configs/benchmarks/sentiment.yaml

The program first prints how long the jobs will take; with `--launch.plan true` it ends there. A job that has a record
is not run again, and a run that was stopped continues. A job that fails leaves its reason instead of a record; the
program runs it again only with `--launch.retry true`. `--workers.ray auto` runs jobs side by side. The output of a run
is in a file next to its folder, `runs/benchmarks/NAME/METHOD/seedN.log.txt`.

Exit codes: 0 if every job has its record; 1 if a run failed; 2 and one line for an error that you can fix; 130 or 143
after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.grid.plan import Job, check, command, jobs, name_of
from benchmarks.grid.records import (
    check_choices,
    check_settings,
    done,
    drop_checkpoints,
    expected,
    extended,
    failure_of,
    keep_failure,
    keep_grid,
    keep_run,
    keep_sweep,
    left_of,
    record_of,
    reopen,
    with_recorded_points,
)
from benchmarks.grid.settings import GridConfig
from benchmarks.jobs import Process, WorkersConfig, run_jobs
from softprompts.config.cli import cli
from softprompts.errors import UserError, nearest
from softprompts.runs.folders import RESULT_FILE
from softprompts.runs.record import spoken
from softprompts.system import locks

PROBE = "-mbenchmarks.grid.probe"  # one word, like the path of a recipe


@dataclass
class LaunchConfig:
    """Folders of a benchmark, and the jobs to run.

    Args:
        records: folder of the records, with a folder per benchmark.
        runs: folder of the runs, likewise.
        plan: print the jobs that are left and their expected time, and run nothing.
        retry: run the jobs again that failed; points of a sweep only if all its points failed.
        only: methods to run; by default all.
        probes: measurements to make, of those of the grid; by default all, and [] makes none. The others are left to
            a later launch: latency is right only on a machine without other jobs. A probe needs the folder of its run.
    """

    records: str = "results/benchmarks"
    runs: str = "runs/benchmarks"
    plan: bool = False
    retry: bool = False
    only: list[str] | None = None
    probes: list[str] | None = None


def main(grid: GridConfig, launch: LaunchConfig, workers: WorkersConfig) -> None:
    """Run every job that has no record."""
    check(grid, Path(launch.runs))
    _check_choice("launch.only", launch.only, list(grid.methods))
    _check_choice("launch.probes", launch.probes, grid.probes)
    folder = Path(launch.records) / name_of(grid)
    settings, grid = grid, with_recorded_points(grid, folder)
    mine = _jobs(grid, launch)
    if launch.retry and not launch.plan:
        for job in mine:
            failure_of(folder, job).unlink(missing_ok=True)
            reopen(folder, job)
    left = left_of(folder, mine)
    seconds = expected(grid, mine, folder)
    print(
        f"{name_of(grid)}: {len(grid.methods)} methods: {len(mine)} jobs, "
        f"{sum(done(folder, job) for job in mine)} of them recorded; about {spoken(sum(seconds[job] for job in left))} "
        "for the others, one after another, on a machine like that of the records",
        flush=True,
    )
    if launch.plan:
        for job in left:
            print(f"  {job.name}: about {spoken(seconds[job])}")
        return
    runs = Path(launch.runs) / name_of(grid)
    runs.mkdir(parents=True, exist_ok=True)
    locks.own(runs, "launch.runs")
    keep_grid(settings, folder)
    check_settings(grid, folder, mine)
    # All sweeps come first, because a sweep whose best point is at an edge continues, and may change its choice.
    before, ended = None, 0
    while grid != before:
        ended += _do(grid, folder, launch, workers, ended, sweeps=True)
        before, grid = grid, extended(grid, settings, _jobs(grid, launch), folder)
    check_choices(folder, Path(launch.runs))
    _do(grid, folder, launch, workers, ended)
    mine = _jobs(grid, launch)
    locks.release(runs)
    failed = sum(failure_of(folder, job).is_file() for job in mine)
    if failed:
        print(f"{failed} of {len(mine)} jobs failed: {folder}/**/*.failed.json", file=sys.stderr)
        raise SystemExit(1)


def _check_choice(key: str, chosen: list[str] | None, known: list[str]) -> None:
    for name in chosen or ():
        if name not in known:
            raise UserError(f'{key}: "{name}"{nearest(name, known)}')


def _jobs(grid: GridConfig, launch: LaunchConfig) -> list[Job]:
    """Return the jobs of a grid, of the methods and measurements to run."""
    probes = grid.probes if launch.probes is None else [name for name in grid.probes if name in launch.probes]
    made = jobs(replace(grid, probes=probes), Path(launch.runs))
    return [job for job in made if launch.only is None or job.method in launch.only]


def _do(
    grid: GridConfig, folder: Path, launch: LaunchConfig, workers: WorkersConfig, ended: int, *, sweeps: bool = False
) -> int:
    """Do the jobs that have no record, or only the sweeps among them, and return their number.

    Args:
        grid: with all points so far.
        folder: of the records.
        launch: folders, and the methods to run.
        workers: the processes that do the jobs.
        ended: number of the jobs that this launch has done before.
        sweeps: whether to do only sweeps.
    """
    left = left_of(folder, _jobs(grid, launch))
    chosen = [job for job in left if job.kind == "sweep" or not sweeps]
    if not chosen:
        return 0
    everything = jobs(grid, Path(launch.runs))
    count = iter(range(ended + 1, ended + 1 + len(chosen)))

    def keep_and_print(job: Job, code: int, line: str) -> None:
        outcome = keep(grid, folder, everything, job, code, line)
        print(f"[{next(count)}/{ended + len(left)}] {job.name}: {outcome}", flush=True)

    run_jobs(chosen, partial(start, grid, folder, everything), keep_and_print, workers)
    return len(chosen)


def start(grid: GridConfig, folder: Path, everything: list[Job], job: Job) -> Process | str | None:
    """Return the process of a job, or why the job cannot run; None as long as a job that it needs has no record."""
    if not all(done(folder, needed) for needed in needs(everything, job)):
        return None
    if job.kind == "probe":
        (run,) = needs(everything, job)
        if (job.folder / RESULT_FILE).is_file() and record_of(folder, run).is_file():
            return process_of(grid, job, [PROBE, *probe_flags(grid, folder, job)])
        # A run whose folder is gone is made again.
        return "the run that it probes failed" if failure_of(folder, run).is_file() else None
    chosen = {}
    if job.kind == "run" and (sweep := sweep_of(everything, job)):
        best = keep_sweep(grid, folder, sweep)
        if best is None:
            return "every point of its sweep failed"
        chosen = best
    return process_of(grid, job, command(grid, job, chosen))


def process_of(grid: GridConfig, job: Job, arguments: list[str]) -> Process:
    """Return the process of a job with its arguments."""
    return Process(arguments, job.folder, grid.methods[job.method].mixed_precision)


def needs(everything: list[Job], job: Job) -> list[Job]:
    """Return the jobs that a job needs: a run the sweep of its method, a probe its run."""
    if job.kind == "sweep":
        return []
    if job.kind == "probe":
        return [j for j in everything if (j.kind, j.method, j.number) == ("run", job.method, job.number)]
    return sweep_of(everything, job)


def sweep_of(everything: list[Job], job: Job) -> list[Job]:
    """Return the points of the sweep of a job's method."""
    return [j for j in everything if (j.kind, j.method) == ("sweep", job.method)]


def keep(grid: GridConfig, folder: Path, everything: list[Job], job: Job, code: int, line: str) -> str:
    """Keep the record of a job that has ended, and return its outcome as text.

    Args:
        grid: the settings of the benchmark.
        folder: of its records.
        everything: all jobs of the benchmark.
        job: the job that has ended.
        code: its exit code.
        line: the last line of its output, or why it did not run.

    Raises:
        UserError: see `keep_run`.
    """
    if code:
        process = start(grid, folder, everything, job)
        keep_failure(folder, job, process.arguments if isinstance(process, Process) else [], code, line)
        return f"failed: {line}"
    drop_checkpoints(job)
    if job.kind == "sweep":
        points = sweep_of(everything, job)
        if all(done(folder, point) for point in points):
            return f"validated; the sweep chooses {keep_sweep(grid, folder, points)}"
        return "validated"
    if job.kind == "probe":
        return "recorded"
    result, same = keep_run(folder, job)
    numbers = ", ".join(f"{name} {100 * x.value:.1f} %" for name, x in result.metrics.items())
    again = "" if same is None else f"; made again for its probes, {100 * same:.0f} % of its answers are those recorded"
    return f"{numbers} in {spoken(result.cost['seconds_total'])}{again}"


def probe_flags(grid: GridConfig, folder: Path, job: Job) -> list[str]:
    """Return the arguments of the probes of a run."""
    record = folder / job.method / f"seed{job.number}.probes.json"
    flags = ["--probe.run", str(job.folder), "--probe.record", str(record), "--probe.what", str(list(job.what))]
    flags += ["--probe.sampled_rows", str(grid.sampled_rows)]
    if "transfer" in job.what:
        flags += ["--probe.transfer", json.dumps(grid.transfer), "--probe.transfer_rows", str(grid.transfer_rows)]
    return flags


if __name__ == "__main__":
    cli(main)
