"""`make fuzz`: run the fuzzers' cases, remember those that passed, and list those that failed."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from cases import Outcome, make_stock, names_of, run_cases
from softprompts.runs.environment import environment

ROOT = Path(__file__).resolve().parents[2]
RUNS, RECORD = ROOT / "runs" / "fuzz", ROOT / "results" / "fuzz.json"
WHOLE = 5000  # cases of a record


def main() -> int:
    """Return 0 if every case passed, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=WHOLE, help="how many, all fuzzers together")
    parser.add_argument("--case", help="run this one alone, as crash:12, and show all of it")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    return alone(arguments.case, arguments.seed) if arguments.case else all_of(**_but_case(arguments))


def _but_case(arguments: argparse.Namespace) -> dict[str, int]:
    return {key: value for key, value in vars(arguments).items() if key != "case"}


def alone(name: str, seed: int) -> int:
    """Run one case, keep its folder, and print its damage and its faults."""
    home = RUNS / "alone"  # all cases may be running in RUNS
    make_stock(home)
    (found,) = run_cases([name], seed, home, keep=True)
    folder = home / name.replace(":", "-")
    for file in ("case.txt", "damaged.out", "damaged.err", "log.txt"):
        if (folder / file).is_file():
            print(f"--- {file}\n{(folder / file).read_text(errors='replace').rstrip()}")
    print(f"--- {folder}")
    print("\n".join(found.faults) or "held")
    return int(bool(found.faults))


def all_of(seed: int, cases: int, jobs: int) -> int:
    """Run all cases that have not passed yet in an interrupted call; list the faults."""
    record = RUNS / f"seed-{seed}.jsonl"
    lines = record.read_text().splitlines() if record.is_file() else []
    before = {found.name: found for found in (Outcome(**json.loads(line)) for line in lines if line.endswith("}"))}
    held = {name for name, found in before.items() if not found.faults}
    names = names_of(cases)
    left = [name for name in names if name not in held]
    if len(left) < cases:
        print(f"{cases - len(left)} of {cases} cases held before", flush=True)
    make_stock(RUNS)
    started, failed = time.monotonic(), []
    with record.open("a") as file:
        for count, found in enumerate(run_cases(left, seed, RUNS, jobs), start=1):
            file.write(json.dumps(asdict(found)) + "\n")
            file.flush()
            failed += [found] if found.faults else []
            if count % 50 == 0:
                seconds = time.monotonic() - started
                print(
                    f"{cases - len(left) + count} of {cases} cases, {len(failed)} failed, {seconds:.0f} s", flush=True
                )
    if not failed:
        record.rename(record.with_suffix(".done.jsonl"))  # the next call starts again; after a failure it tries those
    if cases >= WHOLE:
        keep(seed, names, failed)
    for found in sorted(failed, key=lambda f: f.faults):
        print(f"{found.name}  {'  |  '.join(found.faults)}\n    make fuzz SEED={seed} CASE={found.name}")
    print(f"{cases} cases of seed {seed}: {len(failed) or 'none'} failed, {time.monotonic() - started:.0f} s")
    return int(bool(failed))


def keep(seed: int, names: list[str], failed: list[Outcome]) -> None:
    """Write the record of all cases: their number for each fuzzer, and those that failed."""
    record = {
        "environment": environment(),
        "seed": seed,
        "cases": dict(Counter(name.partition(":")[0] for name in names)),
        "failed": {found.name: found.faults for found in failed},
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
