"""Keep what `make demo` measured: its records under `results/`, its table and picture in the README."""

from __future__ import annotations

import shutil
from pathlib import Path

from softprompts.config import cli
from softprompts.errors import UserError
from softprompts.reports.demo import table
from softprompts.results import load_result
from softprompts.runs import RESULT_FILE

DEMO = Path("runs/demo")
RESULTS = Path("results/demo")
README = Path("README.md")
PICTURE = Path("docs/demo_curves.png")
BEGIN, END = "<!-- results:begin -->\n", "<!-- results:end -->"


def main() -> None:
    """Copy the records, then make the README's table from the copies."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    records = []
    for recipe in ("hard_prompt", "prompt_tuning"):
        source = DEMO / recipe / RESULT_FILE
        if not source.is_file():
            raise UserError(f"{source}: no such file; run `make demo` first")
        if "+changes" in load_result(source).environment["commit"]:
            raise UserError(f"{source}: measured with uncommitted changes; commit, then run the demo anew")
        records.append(Path(shutil.copy(source, RESULTS / f"{recipe}.json")))
    shutil.copy(DEMO / "prompt_tuning" / "curves.png", PICTURE)
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    made = table(*(load_result(r) for r in records))
    README.write_text(f"{before}{BEGIN}{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    cli(main)
