"""Try every fault and count the outcomes.

    python -m benchmarks.chaos [--only kill_single --only damage] [--share 0.1] [--seed 0]

Each trial runs prompt tuning on a tiny model in its own folder, causes a fault and resumes the run. Then it compares
adapter and answers with those of an undisturbed run, byte by byte. A call continues an interrupted one, in runs/chaos.
When all faults were tried, the record is written to results/chaos.json.

Full disks and read-only folders are small file systems in memory, in a mount namespace of only this process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.chaos.trial import Trial

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "runs" / "chaos"
RECORD = ROOT / "results" / "chaos.json"
INSIDE = "SOFTPROMPTS_CHAOS"
MOST_BROKEN = 10  # failed trials of one fault, after which the next fault is tried


def main() -> int:
    """Return 0 if all trials succeeded, else 1."""
    _enter_own_namespace()
    from benchmarks.chaos.faults import FAULTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(FAULTS), help="try only these faults, without a record")
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of each fault's trials; below 1 there is no record"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=PLACE, help="folder of the trials and their progress")
    given = parser.parse_args()
    wanted = {name: max(1, round(FAULTS[name].wanted * given.share)) for name in given.only or FAULTS}
    place: Path = given.folder.absolute()
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"seed-{given.seed}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    done = [one for line in lines if line.endswith("}") and not (one := json.loads(line))["broken"]]
    _try_all(wanted, given.seed, done, file)
    broken = [one for one in done if one["broken"]]
    for one in broken:
        print(f"{one['fault']} {one['number']}: {one['broken']}")
    print(f"{len(done)} trials, {len(broken) or 'none'} failed; {place}")
    if not given.only and given.share >= 1:
        _write(done, given.seed)
        if not broken:
            file.rename(file.with_suffix(".done.jsonl"))  # the next call starts again; after a failure it tries those
    return int(bool(broken))


def _enter_own_namespace() -> None:
    """Restart this program in its own mount namespace; at its end all mounts end too."""
    if INSIDE not in os.environ:
        words = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
        if subprocess.run([*words, "true"], capture_output=True).returncode:
            raise SystemExit("error: make chaos needs `unshare --mount`, for file systems of a few pages")
        os.environ |= {INSIDE: "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        os.execvp(words[0], [*words, sys.executable, "-m", "benchmarks.chaos", *sys.argv[1:]])


def _try_all(wanted: dict[str, int], seed: int, done: list[dict[str, Any]], file: Path) -> None:
    from benchmarks.chaos.faults import FAULTS
    from benchmarks.chaos.launches import warm_up
    from benchmarks.chaos.subject import make_subject
    from benchmarks.chaos.trial import Trial, clean, measure

    import torch

    place = file.parent
    torch.set_num_threads(1)  # threads would be lost in a fork
    warm_up()
    clean(place / "subject")
    make_subject(place / "subject")
    undisturbed = {}
    for way in dict.fromkeys(FAULTS[name].way for name in wanted):
        clean(place / "trial")
        trial = Trial(random.Random(0), 0, 1, place / "trial", place / "subject", {}, way)
        undisturbed[way] = measure(trial)
        print(f"undisturbed, {way}: {undisturbed[way].seconds:.1f} s, {undisturbed[way].pages} pages", flush=True)
    for name, count in wanted.items():
        held = {one["number"] for one in done if one["fault"] == name}
        number, times, broken = 0, sum(one["times"] for one in done if one["fault"] == name), 0
        while times < count and broken < MOST_BROKEN:
            if number not in held:
                clean(place / "trial")
                rng = random.Random(f"{seed} {name} {number}")
                folders = place / "trial", place / "subject"
                one = _tried(name, Trial(rng, number, count, *folders, undisturbed, FAULTS[name].way))
                done.append(one)
                times, broken = times + one["times"], broken + bool(one["broken"])
                with file.open("a", encoding="utf-8") as record:
                    record.write(json.dumps(one) + "\n")
            number += 1
        mine = [one for one in done if one["fault"] == name]
        said = Counter(one["outcome"] or f"FAILED: {one['broken']}" for one in mine)
        print(f"{name}: {times} times, {sum(o['seconds'] for o in mine):.0f} s: {dict(said)}", flush=True)


def _tried(name: str, trial: Trial) -> dict[str, Any]:
    """Return the outcome of one trial; keep its folder if it failed."""
    from benchmarks.chaos.faults import FAULTS
    from benchmarks.chaos.trial import BrokenError, clean

    started, times, outcome, broken = time.monotonic(), 1, "", ""
    try:
        times, outcome = FAULTS[name].trial(trial)
    except BrokenError as error:
        broken, kept = str(error), trial.folder.with_name(f"{name}-{trial.number}")
        clean(kept)
        trial.folder.rename(kept)
    seconds = round(time.monotonic() - started, 1)
    return {
        "fault": name,
        "number": trial.number,
        "times": times,
        "outcome": outcome,
        "broken": broken,
        "seconds": seconds,
    }


def _write(done: list[dict[str, Any]], seed: int) -> None:
    """Write the record: the number of each fault's trials, and of its outcomes."""
    from benchmarks.chaos.faults import FAULTS
    from softprompts.runs.environment import environment

    faults = []
    for name, fault in FAULTS.items():
        mine = [one for one in done if one["fault"] == name]
        outcomes: Counter[str] = Counter()
        for one in mine:
            outcomes[one["outcome"] or f"failed: {one['broken']}"] += one["times"]
        times = sum(outcomes.values())
        faults.append({"fault": name, "name": fault.name, "times": times, "outcomes": dict(outcomes)})
    record = {
        "seed": seed,
        "trials": len(done),
        "failed": sum(bool(one["broken"]) for one in done),
        "seconds": round(sum(one["seconds"] for one in done)),
        "environment": environment(),
        "faults": faults,
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
