"""Write the results of a record into the header of its shipped config; `make record` calls this."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from softprompts.runs.record import Result, load_result
from softprompts.system.files import write_atomically

RESULT = re.compile(r"^# Result:.*\n(?:# .*\n)*", re.MULTILINE)
WRITTEN = {
    "macro_f1": "macro F1",
    "slot_f1": "slot F1",
    "valid_json": "valid JSON",
    "valid_schema": "valid by schema",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
}
WIDTH = 120


def write_headers(records: Iterable[tuple[Path, Path]]) -> list[Path]:
    """Update the header of each config that has a record; return the changed configs.

    Args:
        records: files of records, as the headers name them, each with its config.
    """
    changed = []
    for record, config in records:
        if not record.is_file():
            continue
        text = config.read_text(encoding="utf-8")
        written = with_result(text, load_result(record), record.as_posix())
        if written != text:
            write_atomically(config, written)
            changed.append(config)
    return changed


def with_result(text: str, result: Result, source: str) -> str:
    """Return a config's text with the results of a record in its header.

    Args:
        text: text of the config; its header ends with an empty line before `model:`.
        result: the record.
        source: file of the record, as the header names it.
    """
    header, model, rest = text.partition("\nmodel:\n")
    bare = RESULT.sub("", header) if RESULT.search(header) else f"{header.rstrip()}\n#\n"
    return f"{bare}{measured(result, source)}\n{model}{rest}"


def measured(result: Result, source: str) -> str:
    """Return a comment: the metrics on test, the seconds of training, and the file that has both."""
    scores = ", ".join(f"{_name(name)} {100 * metric.value:.1f} %" for name, metric in result.metrics.items())
    rows = next(iter(result.metrics.values())).rows
    text = f"Result: {scores} on {rows:,} test rows{_training(result)} ({source})."
    return textwrap.fill(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _name(metric: str) -> str:
    return WRITTEN.get(metric, metric.replace("_", " "))


def _training(result: Result) -> str:
    if not result.training:
        return ""
    hardware, cost = result.environment["hardware"], result.cost
    threads = hardware["threads"]
    device = ", ".join(hardware["gpus"]) or f"{threads} CPU thread{'s' if threads > 1 else ''}"
    # On a machine with other jobs the wall time means little, so a recent record has the CPU time as well.
    used = cost.get("cpu_seconds_training")
    shared = used is not None and not hardware["gpus"] and used < 0.9 * threads * cost["seconds_training"]
    return (
        f"; {cost['seconds_training']:.0f} s of training on {device}{f', {used:.0f} s of CPU time' if shared else ''}"
    )
