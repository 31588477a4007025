"""Run every recipe on the three tasks of the benchmark with its shipped config, and keep the records.

    python -m benchmarks.tasks [TASK ...] [RECIPE ...]

A config with a record is not run again, here or in its final benchmark; a stopped run continues. A failed run does not
stop the others; the exit code is then 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.tasks.launch import launch
from benchmarks.tasks.record import RECIPES, TASKS, keep, record_of_config
from softprompts.errors import nearest


def main(names: list[str]) -> int:
    """Run the named tasks and recipes, by default all; return the exit code."""
    for name in names:
        if name not in (*TASKS, *RECIPES):
            print(f'error: no task and no recipe "{name}"{nearest(name, (*TASKS, *RECIPES))}', file=sys.stderr)
            return 2
    failed = []
    for task in [t for t in TASKS if t in names] or TASKS:
        for recipe in [r for r in RECIPES if r in names] or RECIPES:
            record, config = record_of_config(task, recipe), Path("configs", task, f"{recipe}.yaml")
            if record.is_file() or not config.is_file():
                print(f"{record} exists" if record.is_file() else f"there is no {config}")
                continue
            folder = Path("runs") / task / recipe
            code = launch(recipe, str(config), folder)
            if code:
                failed.append(f"{task}/{recipe} ended with exit code {code}")
            else:
                keep(folder, record)
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
