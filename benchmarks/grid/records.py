"""Keep the records of a benchmark's runs. `benchmarks.grid.settings` reads them, and lists the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.grid.plan import ROOT, Job, choose, parsed, points, refusal
from benchmarks.grid.settings import GridConfig, in_words, load_benchmark, seeds_of
from softprompts.errors import UserError
from softprompts.runs.folders import RESULT_FILE
from softprompts.runs.record import Result, load_result
from softprompts.sweeps.grid import beyond
from softprompts.system.files import write_atomically

# A grid may grow. Its records stay comparable as long as everything else is the same.
GROWS = ("seeds", "methods", "probes", "transfer", "name", "extensions")
# Keys that the first records do not have, and that change a run. Their defaults do what those runs did.
NEWER = ("init_from", "init_fill", "init_adapter", "parametrization", "ema", "on_nan", "teacher", "teacher_context")
TASKS = Path("results/tasks")
UNKNOWN = 120.0  # seconds of a job without any record


def keep_grid(grid: GridConfig, folder: Path) -> None:
    """Write the settings of a grid into the folder of its records.

    Raises:
        UserError: its records were made with other settings.
    """
    file, now = folder / "grid.json", json.loads(json.dumps(asdict(grid)))
    if file.is_file():
        before = _read(file)
        defaults = asdict(GridConfig(grid.task, {}))  # for keys that are newer than the file
        changed = [key for key in now if key not in GROWS and before.get(key, defaults[key]) != now[key]]
        changed += [
            f"methods.{m}" for m, method in before["methods"].items() if not _grown(method, now["methods"].get(m))
        ]
        changed += [f"methods.{m}: seed {seed} is gone" for m, seed in sorted(_planned(before) - _planned(now))]
        if changed:
            raise UserError(
                f"{folder} was measured with other settings ({', '.join(changed)}): give the grid another name, or "
                "move its records away"
            )
    _write(file, now)


def _grown(before: dict[str, Any], now: dict[str, Any] | None) -> bool:
    """Return whether only its seeds have changed, or further points were added at the end of its sweep."""
    if now is None:
        return False
    known = before.get("further", [])
    return now["further"][: len(known)] == known and before | {key: now[key] for key in ("further", "seeds")} == now


def _planned(grid: dict[str, Any]) -> set[tuple[str, int]]:
    return {(method, seed) for method in grid["methods"] for seed in seeds_of(grid, method)}


def record_of(folder: Path, job: Job) -> Path:
    """Return the file of a job's record. The points of a sweep share one, which is written after the last point."""
    if job.kind == "sweep":
        return folder / job.method / "sweep.json"
    return folder / job.method / f"seed{job.number}{'.probes' if job.kind == 'probe' else ''}.json"


def failure_of(folder: Path, job: Job) -> Path:
    """Return the file with the reason why a job failed; for a point of a sweep, it is next to its run's folder."""
    if job.kind == "sweep":
        return job.folder.with_name(f"{job.folder.name}.failed.json")
    return record_of(folder, job).with_suffix(".failed.json")


def done(folder: Path, job: Job) -> bool:
    """Return whether a job has a record, also if that is of a failure."""
    if job.kind == "sweep":
        found = (job.folder / RESULT_FILE).is_file() or job.values in [p["values"] for p in _swept(folder, job)]
    else:
        file = record_of(folder, job)
        found = file.is_file() and (job.kind == "run" or not unmeasured(file, job.what))
    return found or failure_of(folder, job).is_file()


def unmeasured(record: Path, what: Sequence[str]) -> list[str]:
    """Return what a record of probes lacks. A record without `what` was made at once, so it lacks nothing."""
    return [name for name in what if name not in _read(record).get("what", what)]


def left_of(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that are left, in their order: those without a record, and runs whose probes need them again.

    A run's folder may be gone, for example in a clone, while its record is kept. Its probes load the trained method, so
    the run is then made again. Its record stays as it is.
    """
    lacking = [job for job in jobs if not done(folder, job)]
    again = {(j.method, j.number) for j in lacking if j.kind == "probe" and not (j.folder / RESULT_FILE).is_file()}
    return [job for job in jobs if job in lacking or (job.kind == "run" and (job.method, job.number) in again)]


def _swept(folder: Path, job: Job) -> list[dict[str, Any]]:
    """Return the points in the record of a method's sweep."""
    file = record_of(folder, job)
    return _read(file)["points"] if file.is_file() else []


def reopen(folder: Path, job: Job) -> None:
    """Remove the record of a point's sweep if all points failed, so that they run again.

    A sweep with a choice stays closed, because its runs are made with this choice.
    """
    if job.kind == "sweep" and record_of(folder, job).is_file() and _read(record_of(folder, job))["chosen"] is None:
        record_of(folder, job).unlink()


def keep_failure(folder: Path, job: Job, command: list[str], code: int, reason: str) -> None:
    """Record why a job failed, because the tables explain each gap."""
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"reason": reason, "exit_code": code, "command": [_relative(c) for c in command], "finished": moment}
    _write(failure_of(folder, job), record)


def keep_sweep(grid: GridConfig, folder: Path, jobs: list[Job]) -> dict[str, Any] | None:
    """Write the record of a method's sweep, and return the chosen values; None if all points failed.

    Raises:
        FileNotFoundError: a point has not ended yet.
    """
    file = record_of(folder, jobs[0])
    known = _swept(folder, jobs[0])
    if len(known) == len(jobs):
        return _read(file)["chosen"]
    tried = [next((p for p in known if p["values"] == job.values), {}) or _point(folder, job) for job in jobs]
    chosen = choose(tried)
    by = next((p["by"] for p in tried if "by" in p), None)
    assert len(tried) == len(points(grid.methods[jobs[0].method]))
    _write(file, {"chosen": chosen, "by": by, "seed": grid.sweep_seed, "points": tried})
    return chosen


def with_recorded_points(grid: GridConfig, folder: Path) -> GridConfig:
    """Return a grid with the points of its recorded sweeps that it lacks itself, in the order of their runs."""
    methods = {}
    for name, method in grid.methods.items():
        file = folder / name / "sweep.json"
        swept = [point["values"] for point in _read(file)["points"]] if file.is_file() else []
        first = swept[len(points(replace(method, further=[]))) :]
        methods[name] = replace(method, further=[*first, *(v for v in method.further if v not in first)])
    return replace(grid, methods=methods)


def extended(grid: GridConfig, settings: GridConfig, everything: Sequence[Job], folder: Path) -> GridConfig:
    """Return a grid with the points beyond the edges at which its finished sweeps have their best one.

    Args:
        grid: the grid with all points so far.
        settings: as the user gave it; its `extensions` count the points beyond these.
        everything: all jobs of the grid.
        folder: of the records.
    """
    methods = dict(grid.methods)
    for name, method in grid.methods.items():
        sweep = [job for job in everything if (job.kind, job.method) == ("sweep", name)]
        chosen = keep_sweep(grid, folder, sweep) if sweep and all(done(folder, job) for job in sweep) else None
        room = grid.extensions - (len(sweep) - len(points(settings.methods[name])))
        if chosen and room > 0:
            found = [v for v in beyond(chosen, points(method), method.sweep) if _accepted(grid, name, v, folder)]
            methods[name] = replace(method, further=[*method.further, *found[:room]])
    return replace(grid, methods=methods)


def _accepted(grid: GridConfig, name: str, values: dict[str, Any], folder: Path) -> bool:
    """Return whether a method's recipe accepts the values of a further point; print why it does not."""
    refused = refusal(grid, Job("sweep", name, 0, folder, values))
    if refused:
        print(f"{name}: the sweep ends at its edge: {refused}", flush=True)
    return not refused


def check_settings(grid: GridConfig, folder: Path, everything: Sequence[Job]) -> None:
    """Check that recorded runs would run again as they were recorded: the shipped configs may have changed since.

    Only the methods that still have a run to do are checked: their table would mix settings, or their probes would
    measure another model than the one with the scores.

    Raises:
        UserError: a recorded run of such a method has other settings.
    """
    runs = [job for job in everything if job.kind == "run"]
    going_on = {job.method for job in left_of(folder, everything) if job.kind == "run"}
    for job in runs:
        record = record_of(folder, job)
        if job.method in going_on and record.is_file() and (changed := changed_settings(grid, folder, job)):
            config = f"configs/{grid.task}/{grid.methods[job.method].recipe}.yaml"
            raise UserError(
                f"{record}: was made with other settings than {config} and the grid have now ({in_words(changed)}); "
                f"undo this change, or move {record.parent}/seed* away, so that they are made again"
            )


def changed_settings(grid: GridConfig, folder: Path, job: Job) -> dict[str, Any]:
    """Return the settings that a recorded run would have now, of those in which they differ from its record."""
    sweep = folder / job.method / "sweep.json"
    chosen = (_read(sweep)["chosen"] if sweep.is_file() else None) or {}
    return differing(parsed(grid, job, chosen), _read(record_of(folder, job))["settings"])


def differing(now: Mapping[str, Any], then: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of a recipe, by section, in which they differ from those in a record."""
    changed = {}
    for section in sorted(then.keys() & now.keys() - {"run"}):
        settings = json.loads(json.dumps(asdict(now[section])))
        defaults = _defaults(now[section])
        before = {key: defaults[key] for key in defaults.keys() & set(NEWER)} | dict(then[section])
        for key in sorted(settings):
            if settings[key] != before.get(key, settings[key]):
                changed[f"{section}.{key}"] = settings[key]
    return changed


def _defaults(settings: Any) -> dict[str, Any]:
    """Return the defaults of a section's settings, as in a record."""
    made = {f.name: f.default_factory() for f in fields(settings) if f.default_factory is not MISSING}
    made |= {f.name: f.default for f in fields(settings) if f.default is not MISSING}
    return dict(json.loads(json.dumps(made)))


def check_choices(folder: Path, runs: Path) -> None:
    """Check that every recorded run has the values that its sweep chooses; further points may change the choice.

    Raises:
        UserError: a run has other values.
    """
    for method, chosen in load_benchmark(folder).outdated.items():
        records, made = folder / method, runs / folder.name / method
        raise UserError(
            f"{records}: a run was made with other values than its sweep chooses now ({in_words(chosen)}); move "
            f"{records}/seed* and {made}/seed* away, so that they are made again"
        )


def _point(folder: Path, job: Job) -> dict[str, Any]:
    if failure_of(folder, job).is_file():
        reason = _read(failure_of(folder, job))["reason"]
        return {"values": job.values, "best_value": None, "failure": reason}
    result = load_result(job.folder / RESULT_FILE)
    training = result.training
    return {
        "values": job.values,
        "best_value": training["best_value"],
        "best_step": training["best_step"],
        "by": result.settings["training"]["best_by"],
        "validations": [entry for entry in training["history"] if "validation_loss" in entry],
        "validation_metrics": {name: x.value for name, x in result.metrics.items()},
        "steps": training["step"],
        "cost": result.cost,
        "environment": result.environment,
    }


def keep_run(folder: Path, job: Job) -> tuple[Result, float | None]:
    """Copy the record of a run, and its predictions for the test rows. A record that exists stays as it is.

    Return the run's record and, if there was one before, the share of its answers that the run has, too. Another
    machine or number of threads changes some.

    Raises:
        UserError: its test rows differ from those of the benchmark.
    """
    result, record = load_result(job.folder / RESULT_FILE), record_of(folder, job)
    lines = (job.folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n")  # texts may hold U+2028
    predictions = [json.loads(line) for line in lines if line]
    rows = [{"place": _relative(p["place"]), "prompt": p["prompt"], "target": p["target"]} for p in predictions]
    file = folder / "rows.json"
    if file.is_file():
        known = _read(file)
        if [(r["place"], r["target"]) for r in known] != [(r["place"], r["target"]) for r in rows]:
            raise UserError(f"{job.folder}: was tested on other rows than those in {file}")
    else:
        _write(file, rows)
    answers = [p["prediction"] for p in predictions]
    if record.is_file():
        return result, mean(a == b for a, b in zip(answers, _read(record.with_suffix(".answers.json")), strict=True))
    _write(record.with_suffix(".answers.json"), answers)
    _write(record, asdict(result))  # last, because with it the run counts as recorded
    return result, None


def drop_checkpoints(job: Job) -> None:
    """Remove the checkpoints of a finished run: it is never resumed, and those of full fine-tuning take gigabytes."""
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)


def seconds_of(folder: Path, job: Job) -> float | None:
    """Return how long a job took; None if that is not recorded."""
    if job.kind == "sweep":
        if (job.folder / RESULT_FILE).is_file():
            return load_result(job.folder / RESULT_FILE).cost["seconds_total"]
        point = next((p for p in _swept(folder, job) if p["values"] == job.values), {})
        return point["cost"]["seconds_total"] if "cost" in point else None
    if not record_of(folder, job).is_file():
        return None
    return _seconds_in(record_of(folder, job))


def _seconds_in(path: Path) -> float:
    """Return how long the job of a record took; probes have no cost of their own."""
    record = _read(path)
    return float(record["seconds"] if "seconds" in record else record["cost"]["seconds_total"])


def expected(grid: GridConfig, jobs: Sequence[Job], folder: Path) -> dict[Job, float]:
    """Return the seconds that each job is expected to take.

    They are the mean of the recorded jobs of its method and kind. Without these, a run takes as long as the shipped
    config's record says, and another job as long as those of its kind in other benchmarks: of its task and method,
    else of its method, else of all.
    """
    known = {job: seconds for job in jobs if (seconds := seconds_of(folder, job)) is not None}
    means: dict[tuple[str, str], float] = {}
    for job in jobs:
        if (like := (job.kind, job.method)) not in means:
            found = [seconds for other, seconds in known.items() if (other.kind, other.method) == like]
            means[like] = mean(found) if found else _expected_elsewhere(grid, job, folder.parent)
    return {job: known.get(job, means[job.kind, job.method]) for job in jobs}


def _expected_elsewhere(grid: GridConfig, job: Job, benchmarks: Path) -> float:
    record = TASKS / grid.task / f"{grid.methods[job.method].recipe}.json"
    if job.kind != "probe" and record.is_file():
        return float(load_result(record).cost["seconds_total"])
    names = "seed*.probes.json" if job.kind == "probe" else "seed*[0-9].json"  # not seed0.answers.json
    for place in (f"final_{grid.task}/{job.method}", f"{grid.task}/{job.method}", f"*/{job.method}", "*/*"):
        if found := [_seconds_in(path) for path in benchmarks.glob(f"{place}/{names}")]:
            return mean(found)
    return UNKNOWN


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _relative(text: str) -> str:
    """Remove this checkout's folder from a path, because records are read elsewhere."""
    return text.replace(f"{ROOT}/", "")


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
