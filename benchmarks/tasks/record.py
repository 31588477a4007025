"""Keep what runs measured: records under `results/`, and the README's tables and pictures made from them."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.tasks.tables import table, tasks_table
from softprompts.config.cli import cli
from softprompts.errors import UserError
from softprompts.methods.catalog import METHODS
from softprompts.runs.folders import RESULT_FILE
from softprompts.runs.record import load_result

RESULTS = Path("results")
README = Path("README.md")
RECIPES = tuple(METHODS)  # rows of a table, from nothing trained to everything
TASKS = ("sentiment", "home_commands", "docstrings")


def main() -> None:
    """Copy the records of finished runs, then make the README's tables from all that are kept."""
    for task in TASKS:
        for recipe in RECIPES:
            keep(Path("runs") / task / recipe, RESULTS / "tasks" / task / f"{recipe}.json")
    keep(Path("runs/sentiment/sweep"), RESULTS / "sweep" / "sentiment.json")
    keep(Path("runs/sentiment/ensemble"), RESULTS / "ensemble" / "sentiment.json")
    demo = {recipe: RESULTS / "tasks" / "demo" / f"{recipe}.json" for recipe in ("hard_prompt", "prompt_tuning")}
    for recipe, record in demo.items():
        keep(Path("runs/demo") / recipe, record)
    put("results", table(*(load_result(record) for record in demo.values())))
    records = [[RESULTS / "tasks" / task / f"{recipe}.json" for recipe in RECIPES] for task in TASKS]
    put("tasks", tasks_table([[load_result(file) for file in files if file.is_file()] for files in records]))
    copy_picture(Path("runs/demo/prompt_tuning/curves.png"), "demo_curves.png")
    copy_picture(Path("runs/sentiment/sweep/sweep.png"), "sweep.png")
    sweep = Path("runs/sentiment/sweep/sweep.md")
    if sweep.is_file():
        put("sweep", sweep.read_text(encoding="utf-8").rstrip())


def keep(run: Path, record: Path) -> None:
    """Copy the record of a finished run, unless it is kept already."""
    source = run / RESULT_FILE
    if not source.is_file() or record.is_file():
        return
    if "+changes" in load_result(source).environment["commit"]:
        raise UserError(f"{source}: measured with uncommitted changes; commit, then run it anew")
    record.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, record)
    print(f"kept {record}")


def copy_picture(source: Path, name: str) -> None:
    """Copy a run's picture to docs/."""
    if source.is_file():
        shutil.copy(source, Path("docs") / name)


def put(mark: str, made: str) -> None:
    """Write a table between its two marks in the README."""
    begin, end = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->"
    before, rest = README.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    README.write_text(f"{before}{begin}{made}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    cli(main)
