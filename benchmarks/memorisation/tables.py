"""The results of the probe, as a line and as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from softprompts.reports.tables import markdown_table

BASE = "base_model"
UNTRAINED = "base model, not trained"


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
        f"{count} copies: {_mean(found, 'sampled'):.1f} bits, {_extracted(found)} extracted"
        for count, found in by_insertions([run]).items()
    )


def _mean(found: Sequence[dict[str, Any]], key: str) -> float:
    return mean(canary[key] for canary in found)


def _extracted(found: Sequence[dict[str, Any]]) -> str:
    return f"{sum(canary['extracted'] for canary in found)} of {len(found)}"


def _by_method(record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each method, those of the base model first."""
    found: dict[str, list[dict[str, Any]]] = {BASE: []}
    for run in record["runs"]:
        found.setdefault(run["method"], []).append(run)
    return {method: runs for method, runs in found.items() if runs}


def table(record: dict[str, Any], labels: Mapping[str, str]) -> str:
    """Return a row for each method: for each number of copies, mean exposure by sampling / by fitting, extractions."""
    methods = _by_method(record)
    counts = sorted({count for runs in methods.values() for count in by_insertions(runs)})
    head = ["method", *("1 copy" if count == 1 else f"{count} copies" for count in counts)]
    rows = []
    for method, runs in methods.items():
        found = by_insertions(runs)
        rows.append([UNTRAINED if method == BASE else labels[method], *(_cell(found[count]) for count in counts)])
    return markdown_table(head, rows)


def _cell(found: Sequence[dict[str, Any]]) -> str:
    return f"{_mean(found, 'sampled'):.1f} / {_mean(found, 'fitted'):.1f} bits, {_extracted(found)}"


def given_away(record: dict[str, Any], labels: Mapping[str, str]) -> str:
    """Return one line: how many secrets each trained method gives away, with the number of copies in train."""
    said = []
    for method, runs in _by_method(record).items():
        if method == BASE:
            continue
        found = {count: c for count, c in by_insertions(runs).items() if any(one["extracted"] for one in c)}
        counts = [f"{_extracted(c)} with {count} {'copy' if count == 1 else 'copies'}" for count, c in found.items()]
        said.append(f"{labels[method]}: {', '.join(counts) or 'none'}")
    return f"Extracted secrets by method: {'; '.join(said)}."


def facts(record: dict[str, Any], labels: Mapping[str, str]) -> str:
    """Return a row for each trained method: parameters, learning rate, seconds, and its scores on test."""
    rows = []
    for method, runs in _by_method(record).items():
        if method == BASE:
            continue
        first = runs[0]
        score = next(iter(first["metrics"]))
        values = ", ".join(f"{100 * run['metrics'][score]:.1f} %" for run in runs)
        seconds = mean(run["seconds"] for run in runs)
        trained = f"{first['trainable']:,}"
        rows.append([labels[method], trained, f"{first['learning_rate']:g}", f"{seconds:.0f} s", values])
    score = next(iter(record["runs"][-1].get("metrics", {"score": 0})))
    return markdown_table(["method", "trained parameters", "learning rate", "CPU time", f"{score} on test"], rows)
