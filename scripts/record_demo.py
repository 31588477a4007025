"""Keep what `make demo` and `make sweep` measured: records under `results/`, tables and pictures of the README."""

from __future__ import annotations

import shutil
from pathlib import Path

from softprompts.config import cli
from softprompts.errors import UserError
from softprompts.reports.demo import table
from softprompts.results import load_result
from softprompts.runs import RESULT_FILE

RESULTS = Path("results")
README = Path("README.md")


def main() -> None:
    """Copy the records and pictures, then make the README's tables from them."""
    records = [keep(Path("runs/demo") / name, "demo", name) for name in ("hard_prompt", "prompt_tuning")]
    shutil.copy("runs/demo/prompt_tuning/curves.png", "docs/demo_curves.png")
    put("results", table(*(load_result(record) for record in records)))
    sweep = Path("runs/sentiment/sweep")
    if sweep.is_dir():
        keep(sweep, "sweep", "sentiment")
        shutil.copy(sweep / "sweep.png", "docs/sweep.png")
        put("sweep", (sweep / "sweep.md").read_text(encoding="utf-8").rstrip())


def keep(run: Path, folder: str, name: str) -> Path:
    """Copy a run's record to `results/<folder>/<name>.json`."""
    source = run / RESULT_FILE
    if not source.is_file():
        raise UserError(f"{source}: no such file; run `make {folder}` first")
    if "+changes" in load_result(source).environment["commit"]:
        raise UserError(f"{source}: measured with uncommitted changes; commit, then run it anew")
    (RESULTS / folder).mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(source, RESULTS / folder / f"{name}.json"))


def put(mark: str, made: str) -> None:
    """Write a table between its two marks in the README."""
    begin, end = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->"
    before, rest = README.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    README.write_text(f"{before}{begin}{made}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    cli(main)
