"""Keep the results of runs: records under `results/`, the demo's output, pictures in `docs/`, headers of configs."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.tasks.headers import write_headers
from softprompts.config.cli import cli
from softprompts.errors import UserError
from softprompts.methods.catalog import METHODS
from softprompts.runs.folders import RESULT_FILE
from softprompts.runs.record import load_result

RESULTS = Path("results")
RECIPES = tuple(METHODS)  # rows of a table, from no trained parameters to all
TASKS = ("sentiment", "home_commands", "docstrings")  # the use cases have only their benchmarks
DEMO = ("hard_prompt", "prompt_tuning")
PRINTED = "printed.md"  # the demo's output about its two runs


def record_of_config(task: str, recipe: str, results: Path = RESULTS) -> Path:
    """Return the file with the record of a shipped config, which need not exist.

    The first seed of the task's final benchmark is a run of that config. A config without such a run has its own.
    """
    final = results / "benchmarks" / f"final_{task}" / recipe / "seed0.json"
    return final if final.is_file() else results / "tasks" / task / f"{recipe}.json"


def main() -> None:
    """Copy the records of finished runs, unless they are kept already, and pictures."""
    for task in TASKS:
        for recipe in RECIPES:
            keep(Path("runs") / task / recipe, record_of_config(task, recipe))
    keep(Path("runs/sentiment/sweep"), RESULTS / "sweep" / "sentiment.json")
    keep(Path("runs/sentiment/ensemble"), RESULTS / "ensemble" / "sentiment.json")
    keep_demo(Path("runs/demo"), RESULTS / "tasks" / "demo")
    copy_picture(Path("runs/demo/prompt_tuning/curves.png"), "demo_curves.png")
    copy_picture(Path("runs/sentiment/sweep/sweep.png"), "sweep.png")
    pairs = [(task, recipe) for task in TASKS for recipe in RECIPES]
    written = [(record_of_config(*pair), Path("configs", pair[0], f"{pair[1]}.yaml")) for pair in pairs]
    written += [(RESULTS / "tasks/demo" / f"{recipe}.json", Path("configs/demo", f"{recipe}.yaml")) for recipe in DEMO]
    for config in write_headers(written):
        print(f"new figures in the header of {config}")


def keep_demo(runs: Path, records: Path) -> None:
    """Copy the demo's two records and its output, unless they are kept already."""
    for recipe in DEMO:
        keep(runs / recipe, records / f"{recipe}.json")
    if (runs / PRINTED).is_file() and not (records / PRINTED).is_file():
        shutil.copy(runs / PRINTED, records / PRINTED)


def keep(run: Path, record: Path) -> None:
    """Copy the record of a finished run, unless it is kept already."""
    source = run / RESULT_FILE
    if not source.is_file() or record.is_file():
        return
    if "+changes" in load_result(source).environment["commit"]:
        raise UserError(f"{source}: measured with uncommitted changes; commit, then run it again")
    record.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, record)
    print(f"kept {record}")


def copy_picture(source: Path, name: str) -> None:
    """Copy a run's picture to docs/."""
    if source.is_file():
        shutil.copy(source, Path("docs") / name)


if __name__ == "__main__":
    cli(main)
