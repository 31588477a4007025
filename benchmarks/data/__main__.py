"""Measure the time until rows are read, checked and tokenized for training.

    python -m benchmarks.data [--rows 1000 --rows 100000]

A file of random rows is loaded twice, each time by a new process. The first time it is read; the second time its rows
and tokens come from the cache. The time is from the call of `load_task` to the end of `encode`, after all imports. The
figures are written to results/bench_data.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "results" / "bench_data.json"
ROWS = (1_000, 100_000, 1_000_000)
WORDS = 30  # words per row
CHOICES = {0: " negative", 1: " positive"}
SEED = 0


def vocabulary() -> list[str]:
    """Return the words of an embedded task with their frequencies, because random letters would not be words."""
    lines = (ROOT / "data" / "sentiment" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:5000]
    return re.findall(r"[\w']+", " ".join(json.loads(line)["text"] for line in lines))


def write_rows(path: Path, rows: int) -> None:
    """Write this number of rows with random words and a label, as CSV."""
    generator, words = random.Random(SEED), vocabulary()
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for _ in range(rows):
            file.write(f"{' '.join(generator.choices(words, k=WORDS))},{generator.randrange(2)}\n")


def measure(path: Path, choices: bool) -> dict[str, float]:
    """Load and tokenize a file; return seconds, and the peak of this process's resident memory in GB."""
    from softprompts.config.sections import TaskConfig
    from softprompts.encoding.tokenization import encode
    from softprompts.models.bundled import resolve
    from softprompts.tasks.task import load_task

    import datasets  # noqa: F401 - recipes import them before this
    import evaluate  # noqa: F401
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve("bundled:smollm2-135m-instruct"))
    before = _peak()
    started, cpu = time.perf_counter(), time.process_time()
    given: Any = CHOICES if choices else None
    target = "{label}" if choices else " {label}"
    config = TaskConfig("{text}\nSentiment:", target, train=str(path), choices=given)
    task = load_task(config)
    read = time.perf_counter()
    data = encode(task, tokenizer)
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    tokens = sum(len(data.train[n].document.input_ids) for n in range(100)) / 100
    return {
        "seconds": round(ended - started, 3),
        "cpu_seconds": round(cpu, 3),
        "load_task": round(read - started, 3),
        "encode": round(ended - read, 3),
        "peak_gb": round(_peak(), 3),
        "peak_gb_before": round(before, 3),
        "tokens_a_row": tokens,
    }


def _peak() -> float:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e9 if sys.platform == "darwin" else 1e6)


def processor() -> str:
    """Return the name of the processor, and the number of its cores."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    name = re.search(r"model name\s*: (.*)", text)
    return f"{name[1] if name else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    """Measure each number of rows, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help=f"by default {ROWS}")
    parser.add_argument("--written", action="store_true", help="open targets; nothing is recorded")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, not given.written)))
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in given.rows or ROWS:
            path = Path(folder) / f"{rows}.csv"
            write_rows(path, rows)
            command = [sys.executable, "-m", "benchmarks.data", "--measure", str(path)]
            environment = os.environ | {"HF_DATASETS_CACHE": f"{folder}/cache", "HF_HUB_OFFLINE": "1"}
            found[str(rows)] = {"megabytes": round(path.stat().st_size / 1e6, 1)}
            for name in ("first", "second"):
                done = subprocess.run(
                    command + ["--written"] * given.written,
                    env=environment,
                    cwd=ROOT,
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                times = found[str(rows)][name] = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{rows:>9,} rows, {name:6} time: {times['seconds']:7.2f} s ({times['cpu_seconds']:.2f} s of the "
                    f"processor), {times['peak_gb']:.2f} GB",
                    flush=True,
                )
    if given.rows is None and not given.written:
        record = {"processor": processor(), "load": os.getloadavg()[0], "words": WORDS, "rows": found}
        RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
