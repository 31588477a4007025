"""The table and the side-by-side answers that `make demo` ends with, made from two run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from softprompts.folders import RESULT_FILE
from softprompts.results import Result, load_result
from softprompts.scoring import Interval

SHOWN = 6  # answers side by side: where the soft prompt mends, and where it spoils


def table(hard: Result, soft: Result) -> str:
    """Return a Markdown table: majority class, best written prompt, soft prompt, with 95 % intervals."""
    wordings = len(hard.notes["wordings"])
    shots = hard.settings["hard"]["shots"]
    written = f"hard prompt, {'zero-shot' if shots == 0 else f'{shots}-shot'}, best of {wordings} wordings"
    rows = [
        ("majority class", soft.baselines["majority_class"]["accuracy"], None),
        (written, hard.metrics["accuracy"], hard),
        (
            f"soft prompt, {soft.settings['prompt']['num_virtual_tokens']} virtual tokens",
            soft.metrics["accuracy"],
            soft,
        ),
    ]
    lines = [
        f"| {_name(soft)} | accuracy | 95 % interval | trained parameters | adapter | seconds |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_row(*row) for row in rows])


def _name(result: Result) -> str:
    """Return the task, the rows it was narrowed to, and how many of them were tested."""
    where = "; ".join(", ".join(values) for values in result.settings["task"]["where"].values())
    rows = result.metrics["accuracy"].rows
    return f"{result.task}{f' ({where})' if where else ''}, {rows} test rows"


def _row(name: str, accuracy: Interval, result: Result | None) -> str:
    cells = [name, f"{100 * accuracy.value:.1f} %", f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"]
    if result is None:
        return f"| {' | '.join([*cells, '0', 'none', '0'])} |"
    size = result.cost["adapter_bytes"]
    cells += [
        f"{result.parameters['trainable']:,}" if result.parameters["saved"] else "0",
        f"{size / 1024:.0f} KiB" if size else "none",
        f"{result.cost['seconds_total']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def side_by_side(hard: list[dict[str, Any]], soft: list[dict[str, Any]]) -> str:
    """Return rows of the test split on which the two differ, the mended and the spoilt in their true proportion."""
    pairs = [(h, s) for h, s in zip(hard, soft, strict=True) if h["prediction"] != s["prediction"]]
    mended = [p for p in pairs if p[1]["prediction"] == p[1]["target"]]
    spoilt = [p for p in pairs if p[0]["prediction"] == p[0]["target"]]
    if not pairs:
        return "The two give the same answer to every test row."
    shown_spoilt = round(SHOWN * len(spoilt) / len(pairs))
    lines = [f"They differ on {len(pairs)} of {len(hard)} test rows: {len(mended)} mended, {len(spoilt)} spoilt.", ""]
    lines += ["| text | right | before | after |", "|---|---|---|---|"]
    for before, after in mended[: SHOWN - shown_spoilt] + spoilt[:shown_spoilt]:
        text = after["prompt"].replace("\n", " / ").replace("|", "\\|")
        text = text if len(text) <= 80 else text[:79] + "…"
        cells = [text, after["target"], before["prediction"], after["prediction"]]
        lines.append("| " + " | ".join(c.strip() for c in cells) + " |")
    return "\n".join(lines)


def report(hard_folder: Path, soft_folder: Path) -> str:
    """Return all that the demo prints at its end."""
    hard, soft = load_result(hard_folder / RESULT_FILE), load_result(soft_folder / RESULT_FILE)
    answers = [_read_predictions(folder) for folder in (hard_folder, soft_folder)]
    return "\n".join(
        [
            table(hard, soft),
            "",
            side_by_side(*answers),
            "",
            f"adapter   {soft_folder / 'adapter'}",
            f"curves    {soft_folder / 'curves.png'}",
            f"record    {soft_folder / RESULT_FILE}",
            "",
            "Next: your own rows, in four lines of YAML",
            "  .venv/bin/accelerate launch recipes/prompt_tuning.py --config configs/own_data/prompt_tuning.yaml",
        ]
    )


def _read_predictions(folder: Path) -> list[dict[str, Any]]:
    with (folder / "predictions.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
