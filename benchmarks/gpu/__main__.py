"""Measure training on one GPU in about eight minutes: attention, steps, a bank of prompts, and compiled layers.

    python -m benchmarks.gpu [PART ...]        (or `make bench-gpu`)

Each part is a separate process, and is recorded in `results/gpu/PART.json` with the name of the card. A part that has a
record is not measured again. No GPU was available so far, so there are no records yet: on a CPU, only tests have run
this program, with tiny sizes.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gpu.attention import Shape, attention
from benchmarks.gpu.training import LLAMA_1B, LLAMA_8B, bank, compiled, steps
from softprompts.errors import nearest
from softprompts.runs.environment import environment
from softprompts.system.files import write_atomically

import torch

RESULTS = Path("results/gpu")
PARTS: dict[str, Callable[[torch.device], dict[str, Any]]] = {
    "attention": partial(attention, Shape()),
    **{
        f"steps_{name}_{side}": partial(steps, sizes, side=side)
        for name, sizes in (("1b", LLAMA_1B), ("8b", LLAMA_8B))
        for side in ("engine", "peft", "trl")
    },
    "bank": partial(bank, LLAMA_1B),
    "compiled": partial(compiled, LLAMA_1B),
}


def main(names: list[str]) -> int:
    """Measure the named parts, by default all; return the exit code."""
    for name in names:
        if name not in PARTS:
            print(f'error: no part "{name}"{nearest(name, PARTS)}', file=sys.stderr)
            return 2
    if not torch.cuda.is_available():
        print("error: no CUDA device; this benchmark measures a GPU", file=sys.stderr)
        return 2
    for name in names or PARTS:
        file = RESULTS / f"{name}.json"
        if file.is_file():
            print(f"{file} exists")
            continue
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            found = executor.submit(measure, name).result()
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(found, indent=1) + "\n")
        print(f"{name}: {json.dumps(found['result'])}", flush=True)
    return 0


def measure(name: str) -> dict[str, Any]:
    """Measure a part in this process; return it with the card and the versions."""
    result = PARTS[name](torch.device("cuda"))
    found = environment()
    if name.endswith("trl"):
        found["versions"]["trl"] = version("trl")
    return {"part": name, "card": torch.cuda.get_device_name(), "result": result, "environment": found}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
