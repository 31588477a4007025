"""Measure one training step with this engine, with PEFT under transformers' `Trainer`, and with TRL.

    python -m benchmarks.throughput [--quick]

Each measurement is a separate process with its own peak memory. The sides take turns, so that a change of the machine's
speed affects all of them. They have the same rows in the same order, initial values, model, threads, precision and
optimizer (`sides.py`). The losses of the first steps must agree. It writes one record per method to
`results/throughput/`, skips existing records, and draws all of them into `docs/throughput.png`. `--quick` measures some
methods once, without TRL, writes nothing and prints a line of ratios at its end.

`limit_share` is the rate of useful work, 4 * N * (n + p) + 4 * V * H * t + attention in most methods (`flops.py` has
the full formula), relative to the rate of a plain product of 2048 x 2048 matrices in the same process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.throughput.chart import draw
from benchmarks.throughput.sides import METHODS, SIDES, WARM_UP, measure
from softprompts.runs.environment import environment
from softprompts.system.files import write_atomically

RESULTS = Path("results/throughput")
CHART = Path("docs/throughput.png")
QUICK = ("prompt20", "prompt100", "prefix20", "lora")
# Bounds of the losses' relative difference from the engine's. The first is before any step; rounding adds up.
BOUNDS = (1e-3, 1e-2, 1e-2)


def in_new_process(method: str, side: str, updates: int) -> dict[str, Any]:
    """Measure one side of one method in a separate process."""
    # On Linux this is a copy of this process, which has imported everything and computed nothing. This saves the
    # seconds of imports. On other systems copies of a process are not safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(measure_silently, method, side, updates).result()


def measure_silently(method: str, side: str, updates: int) -> dict[str, Any]:
    """Measure without the trainers' output. An exception still reaches the parent."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    return measure(method, side, updates)


def check_losses(method: str, side: str, losses: Sequence[float], reference: Sequence[float]) -> None:
    """Stop if a side's training differs from the engine's, because its time would be that of other work."""
    for update, (loss, expected, bound) in enumerate(zip(losses, reference, BOUNDS, strict=False), 1):
        # In this form NaN disagrees.
        if not abs(loss - expected) <= bound * abs(expected):
            sys.exit(f"{method}: the loss of step {update} is {loss} with {side} and {expected} with the engine")


def compare(method: str, sides: Sequence[str], rounds: int, updates: int) -> dict[str, Any]:
    """Measure the sides in turns; return their medians over the rounds, and the ratio of each round."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            runs[side].append(in_new_process(method, side, updates))
            check_losses(method, side, runs[side][-1]["losses"], runs["engine"][0]["losses"])
    seconds = {side: [median(r["seconds"]) for r in runs[side]] for side in sides}
    ratios = {
        side: [other / engine for engine, other in zip(seconds["engine"], seconds[side], strict=True)]
        for side in sides
        if side != "engine"
    }
    shares = [median(per_second(r, "useful_flops")) / r["matrix_product_flops"] for r in runs["engine"]]
    return {
        "method": method,
        "seconds_an_update": {s: {"median": median(v), "min": min(v), "max": max(v)} for s, v in seconds.items()},
        "ratio": {side: median(values) for side, values in ratios.items()},
        "ratios": ratios,
        "tokens_a_second": {side: median([median(per_second(r, "tokens")) for r in runs[side]]) for side in sides},
        "peak_memory_gib": {side: median(r["peak_memory_gib"] for r in runs[side]) for side in sides},
        "limit_share": median(shares),
        "padding_share": runs["engine"][0]["padding_share"],
        "first_losses": {side: runs[side][0]["losses"][: len(BOUNDS)] for side in sides},
        "settings": {
            "rounds": rounds,
            "warm_up": WARM_UP,
            "updates": updates - WARM_UP,
            "batch_size": METHODS[method].batch,
            "learning_rate": METHODS[method].learning_rate,
        },
        "environment": with_trl_version(environment()) if "trl" in sides else environment(),
        "runs": runs,
    }


def per_second(measured: dict[str, Any], what: str) -> list[float]:
    """Return the rate of each counted step."""
    return [amount / seconds for amount, seconds in zip(measured[what], measured["seconds"], strict=True)]


def with_trl_version(found: dict[str, Any]) -> dict[str, Any]:
    """Add the version of TRL, which only this benchmark uses."""
    return found | {"versions": found["versions"] | {"trl": version("trl")}}


def line(record: dict[str, Any]) -> str:
    """Return a record as a printed line."""
    seconds, memory = record["seconds_an_update"], record["peak_memory_gib"]
    others = "; ".join(
        f"{side} {seconds[side]['median']:.2f} s ({ratio:.2f}x), {memory[side]:.2f} GiB"
        for side, ratio in record["ratio"].items()
    )
    return (
        f"{record['method']:10s} {seconds['engine']['median']:.2f} s per step, {memory['engine']:.2f} GiB, "
        f"{record['tokens_a_second']['engine']:.0f} tokens per second, "
        f"{100 * record['limit_share']:.0f} % of the matrix-product rate; {others}"
    )


def recorded() -> list[dict[str, Any]]:
    """Return the records that exist, in the order of the methods."""
    paths = [RESULTS / f"{method}.json" for method in METHODS]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def main() -> None:
    """Measure every method, print a line for each, and keep the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some methods, one round with fewer steps, no record")
    options = parser.parse_args()
    made = []
    for method in QUICK if options.quick else METHODS:
        path = RESULTS / f"{method}.json"
        if options.quick:
            record = compare(method, ("engine", "peft"), rounds=1, updates=WARM_UP + 2)
        elif path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
        else:
            record = compare(method, tuple(SIDES), rounds=3, updates=WARM_UP + 5)
            RESULTS.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(record, indent=1) + "\n")
        print(line(record), flush=True)
        made.append(record)
    if not options.quick:
        draw(recorded(), CHART)
    ratios = " ".join(f"ratio_{r['method']}={r['ratio']['peft']:.2f}" for r in made)
    print(f"{ratios} limit_share={made[0]['limit_share']:.2f}")


if __name__ == "__main__":
    main()
