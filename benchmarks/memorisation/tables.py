"""The results of the probe, as a line and as a table."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean
from typing import Any

from softprompts.reports.tables import markdown_table

LABELS = {"base_model": "base model, not trained"}


def by_insertions(runs: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Return the canaries of runs by their number of copies."""
    found: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        for canary in run["canaries"]:
            found.setdefault(canary["insertions"], []).append(canary)
    return dict(sorted(found.items()))


def in_words(run: dict[str, Any]) -> str:
    """Return a run as one printed line."""
    return "; ".join(
        f"{count} copies: {mean(c['sampled'] for c in found):.1f} bits, {_extracted(found)} extracted"
        for count, found in by_insertions([run]).items()
    )


def _extracted(found: list[dict[str, Any]]) -> str:
    return f"{sum(c['extracted'] for c in found)} of {len(found)}"


def table(record: dict[str, Any], names: dict[str, str]) -> str:
    """Return a row for each method: mean exposure by sampling, its range, and the extracted secrets."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in record["runs"]:
        runs.setdefault(run["method"], []).append(run)
    counts = sorted({count for some in runs.values() for count in by_insertions(some)})
    head = ["method", "trained", *(f"{count} copies" if count != 1 else "1 copy" for count in counts)]
    rows = []
    for method, some in runs.items():
        found = by_insertions(some)
        trained = f"{some[0]['trainable']:,}" if "trainable" in some[0] else "0"
        rows.append([(LABELS | names).get(method, method), trained, *(_cell(found[count]) for count in counts)])
    return markdown_table(head, rows)


def _cell(found: list[dict[str, Any]]) -> str:
    bits = [c["sampled"] for c in found]
    return f"{mean(bits):.1f} ({min(bits):.1f} to {max(bits):.1f}), {_extracted(found)}"
