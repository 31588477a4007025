"""Measure the seconds of training steps until validation first reaches a score, and compare with stock PEFT.

    python -m benchmarks.time_to_quality [TASK ...]

Each run is a separate process, and the sides take turns. Stock PEFT gets ten times the seconds of the recipe's slowest
run so far. Every run is recorded in `results/time_to_quality/TASK.json`, and is not measured again.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.time_to_quality.goals import GOALS, asked
from benchmarks.time_to_quality.ratio import SEEDS, ratio_of
from benchmarks.time_to_quality.sides import measure
from softprompts.errors import UserError, nearest
from softprompts.runs.environment import environment
from softprompts.system.files import write_atomically

RESULTS = Path("results/time_to_quality")
PATIENCE = 10  # times the recipe's seconds that stock PEFT gets


def main(names: list[str]) -> int:
    """Measure the named tasks, by default all; return the exit code."""
    for name in names:
        if name not in GOALS:
            print(f'error: no goal of a task "{name}"{nearest(name, GOALS)}', file=sys.stderr)
            return 2
    for name in names or GOALS:
        file = RESULTS / f"{name}.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else new_record(name)
        if changed := [key for key, value in asked(name).items() if record[key] != value]:
            print(f"error: {file}: was measured with another {', '.join(changed)}; move it away", file=sys.stderr)
            return 2
        for seed in SEEDS:
            for side in ("recipe", "stock"):
                if any((run["side"], run["seed"]) == (side, seed) for run in record["runs"]):
                    continue
                try:
                    run = in_new_process(name, side, seed, limit(record["runs"], side))
                except UserError as error:
                    print(f"error: {error}", file=sys.stderr)
                    return 2
                record["runs"].append(run)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, json.dumps(record, indent=1) + "\n")
                print(f"{name}, {side}, seed {seed}: {in_words(run)}", flush=True)
        print(summary(name, record), flush=True)
    return 0


def new_record(name: str) -> dict[str, Any]:
    """Return a record without runs."""
    return {**asked(name), "environment": environment(), "runs": []}


def limit(runs: list[dict[str, Any]], side: str) -> float:
    """Return the seconds after which a run is ended."""
    if side == "recipe":
        return float("inf")  # its own number of steps ends it
    return PATIENCE * max(run["seconds"] for run in runs if run["side"] == "recipe")


def in_new_process(name: str, side: str, seed: int, seconds: float) -> dict[str, Any]:
    """Measure in a separate process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(measure, name, side, seed, seconds).result()


def in_words(run: dict[str, Any]) -> str:
    """Return a run as printed words."""
    last = f"last {run['curve'][-1]['score']:.1%}" if run["curve"] else "no validation"
    said = "reached" if run["reached"] else f"not reached ({last})"
    return f"{said} after {run['updates']} steps, {run['seconds']:.0f} s"


def summary(name: str, record: dict[str, Any]) -> str:
    """Return the ratio of the sides' medians, or its lower bound if stock PEFT did not reach the score."""
    goal, ratio = record["goal"], ratio_of(record)
    assert ratio is not None  # every run is recorded
    told = "; ".join(
        f"{side} {own.reached} of {own.of} in {own.seconds:.0f} s"
        for side, own in (("recipe", ratio.recipe), ("stock", ratio.stock))
    )
    return f"{name}, {goal['metric']} {goal['score']:.0%}, medians: {told}: {ratio.in_words}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
