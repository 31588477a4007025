"""Run the demo: a hard prompt and a soft prompt on the embedded sentiment task, side by side.

Each recipe runs as a user would run it. A finished part is not run again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.tasks.launch import launch
from benchmarks.tasks.record import PRINTED
from benchmarks.tasks.tables import table
from softprompts.metrics.scoring import load_metrics
from softprompts.metrics.significance import compare
from softprompts.runs.folders import RESULT_FILE
from softprompts.runs.record import load_result
from softprompts.system.files import write_atomically

END = "\nSentiment:"  # ends the prompt template of the configs
SHOWN = 4  # predictions side by side: rows that the soft prompt corrects, and rows that it spoils


def side_by_side(hard: list[dict[str, Any]], soft: list[dict[str, Any]]) -> str:
    """Return test rows on which the two differ: corrected and spoiled ones in their true proportion."""
    pairs = [(h, s) for h, s in zip(hard, soft, strict=True) if h["prediction"] != s["prediction"]]
    corrected = [p for p in pairs if p[1]["prediction"] == p[1]["target"]]
    spoiled = [p for p in pairs if p[0]["prediction"] == p[0]["target"]]
    if not pairs:
        return "Both have the same prediction for every test row."
    shown_spoiled = round(SHOWN * len(spoiled) / len(pairs))
    numbers = f"{len(corrected)} corrected, {len(spoiled)} spoiled"
    lines = [f"They differ on {len(pairs)} of {len(hard)} test rows: {numbers}.", ""]
    lines += ["| text | label | hard prompt | soft prompt |", "|---|---|---|---|"]
    for before, after in corrected[: SHOWN - shown_spoiled] + spoiled[:shown_spoiled]:
        text = after["prompt"].removesuffix(END).replace("\n", " / ").replace("|", "\\|")
        text = text if len(text) <= 80 else text[:79] + "…"
        cells = [text, after["target"], before["prediction"], after["prediction"]]
        lines.append("| " + " | ".join(c.strip() for c in cells) + " |")
    return "\n".join(lines)


def difference(hard: list[dict[str, Any]], soft: list[dict[str, Any]]) -> str:
    """Return the difference of the soft prompt and the hard prompt on the same rows, with the paired interval."""
    answers = {name: [[row["prediction"].strip() for row in rows]] for name, rows in (("soft", soft), ("hard", hard))}
    targets = [row["target"].strip() for row in soft]
    (found,) = compare(answers, targets, load_metrics(["accuracy"]))
    return (
        f"soft prompt minus hard prompt: {100 * found.difference:+.1f} points of accuracy "
        f"(paired 95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f})"
    )


def report(hard_folder: Path, soft_folder: Path) -> str:
    """Return the text that the demo prints at its end."""
    hard, soft = load_result(hard_folder / RESULT_FILE), load_result(soft_folder / RESULT_FILE)
    answers = [_read_predictions(folder) for folder in (hard_folder, soft_folder)]
    return "\n".join(
        [
            table(hard, soft),
            "",
            difference(*answers),
            "",
            side_by_side(*answers),
            "",
            f"adapter   {soft_folder / 'adapter'}",
            f"curves    {soft_folder / 'curves.png'}",
            f"record    {soft_folder / RESULT_FILE}",
            "",
            "Next, for a file of your own:",
            "  make new TASK=mytask DATA=mine.csv",
        ]
    )


def _read_predictions(folder: Path) -> list[dict[str, Any]]:
    with (folder / "predictions.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main() -> None:
    """Run both recipes and print their results."""
    folders = []
    for recipe in ("hard_prompt", "prompt_tuning"):
        folders.append(Path("runs/demo") / recipe)
        code = launch(recipe, f"configs/demo/{recipe}.yaml", folders[-1])
        if code:
            sys.exit(code)
    text = report(*folders)
    write_atomically(Path("runs/demo") / PRINTED, f"{text}\n")  # `make record` keeps it for the README
    print(f"\n{text}")


if __name__ == "__main__":
    main()
