"""Compare runs in pairs on their common rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from softprompts.metrics.scoring import Metric
from softprompts.metrics.significance import Comparison, compare, holm

Row = tuple[str, str]  # place and target
RunAnswers = Mapping[Row, tuple[str, str]]  # prompt and prediction


def compare_on_common_rows(
    answers: Mapping[str, Sequence[RunAnswers]],
    templates: Mapping[str, str],
    metrics: dict[str, Metric],
    resamples: int,
    notes: list[str],
) -> list[Comparison]:
    """Compare all pairs of methods, each on the common rows of all their runs; p is adjusted for all pairs (Holm).

    Rows are the same if their place and target are. If runs have the same prompt template, their prompts must be equal
    as well. `notes` gets a line for pairs without common rows, and a line for pairs that share only some rows.

    Args:
        answers: predictions of each run of each method.
        templates: settings that decide the prompts of each method.
        metrics: the task's metrics.
        resamples: see `significance.compare`.
        notes: lines for the reader.
    """
    shared: dict[tuple[Row, ...], list[tuple[str, str]]] = {}
    apart, partly = [], []
    for a, b in combinations(answers, 2):
        rows = common_rows([*answers[a], *answers[b]], same_prompt=templates[a] == templates[b])
        if not rows:
            apart.append(f"{a} and {b}")
            continue
        if len(rows) < max(len(run) for run in (*answers[a], *answers[b])):
            partly.append(f"{a} and {b} ({len(rows)})")
        shared.setdefault(rows, []).append((a, b))
    notes += [f"Not compared, because they have no common rows: {_first(apart)}."] if apart else []
    notes += [f"Compared only on common rows, which are fewer than all: {_first(partly)}."] if partly else []
    made = [c for rows, pairs in shared.items() for c in _compare(answers, rows, pairs, metrics, resamples)]
    return _adjusted(made)


def common_rows(runs: Sequence[RunAnswers], same_prompt: bool) -> tuple[Row, ...]:
    """Return the rows of all runs, in the order of the first; with one template, prompts must be equal."""
    first, *others = runs
    return tuple(
        row
        for row, (prompt, _) in first.items()
        if all(row in run and not (same_prompt and run[row][0] != prompt) for run in others)
    )


def _first(pairs: Sequence[str], most: int = 6) -> str:
    more = f" and {len(pairs) - most} more" if len(pairs) > most else ""
    return ", ".join(pairs[:most]) + more


def _compare(
    answers: Mapping[str, Sequence[RunAnswers]],
    rows: Sequence[Row],
    pairs: Sequence[tuple[str, str]],
    metrics: dict[str, Metric],
    resamples: int,
) -> list[Comparison]:
    """Compare the methods of all pairs on the same rows at once, and return the requested comparisons."""
    asked = {method for pair in pairs for method in pair}
    said = {m: [[run[row][1].strip() for row in rows] for run in runs] for m, runs in answers.items() if m in asked}
    found = compare(said, [target.strip() for _, target in rows], metrics, resamples)
    return [c for c in found if (c.first, c.second) in pairs]


def _adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons by metric, with p adjusted for all comparisons by the same metric."""
    made = []
    for metric in dict.fromkeys(c.metric for c in comparisons):
        family = [c for c in comparisons if c.metric == metric]
        adjusted = holm([c.p for c in family])
        made += [replace(c, adjusted=p) for c, p in zip(family, adjusted, strict=True)]
    return made
