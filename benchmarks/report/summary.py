"""What the README shows of a benchmark: results, the pairs that people weigh, and the word on each claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.grid.settings import Benchmark
from benchmarks.report.claims import SOFT, TASKS, WEIGHTS, Section
from benchmarks.report.tables import Table, comparisons_markdown, markdown, metrics_of, results_markdown

if TYPE_CHECKING:
    from softprompts.metrics.significance import Comparison

WEIGHED = ("few_shot", *WEIGHTS)  # what one would take instead of a soft prompt
QUOTED = ("style_rate", "valid_schema")  # what is claimed of soft prompts, beside the main metric


def summary(
    benchmarks: Sequence[Benchmark],
    comparisons: Mapping[str, Sequence[Comparison]],
    card: Sequence[Section],
    figures: Mapping[str, Sequence[str]],
) -> str:
    """Return Markdown for each task whose grid is recorded to its end; for others how far it is.

    Args:
        benchmarks: those of the tasks, and any others, which are left out.
        comparisons: of each benchmark, by its name.
        card: sections of the claims card.
        figures: paths of the figures of each benchmark, by its name.
    """
    known = {b.name: b for b in benchmarks}
    parts, complete = [], []
    for task in TASKS:
        benchmark = known.get(task)
        planned = len(benchmark.grid["methods"]) * len(benchmark.grid["seeds"]) if benchmark else 0
        if benchmark is None or benchmark.missing:
            said = f"{planned - len(benchmark.missing)} of {planned} runs are" if benchmark else "no run is"
            parts.append(f"**{task}**: {said} recorded; its numbers come once all are.")
            continue
        complete.append(task)
        shown = [f"![{task}: {path.rpartition('_')[2].partition('.')[0]}]({path})" for path in figures.get(task, ())]
        parts += [results_markdown(benchmark), pairs(benchmark, comparisons[task]), " ".join(shown)]
    if complete:
        parts.append(markdown(words(card)))
    return "\n\n".join(part for part in parts if part)


def pairs(benchmark: Benchmark, comparisons: Sequence[Comparison]) -> str:
    """Return soft prompts compared with what one would take instead, by the main metric and `QUOTED`, as Markdown."""
    main, *others = metrics_of(benchmark)
    wanted = [(soft, other) for soft in SOFT for other in WEIGHED]
    shown: list[Comparison] = []
    for metric in (main, *(name for name in others if name in QUOTED)):
        found = {(c.first, c.second): c for c in comparisons if c.metric == metric}
        shown += [found.get((a, b)) or turned(found[b, a]) for a, b in wanted if {(a, b), (b, a)} & found.keys()]
    return comparisons_markdown(benchmark, shown)


def turned(comparison: Comparison) -> Comparison:
    """Return a comparison as seen from its second method."""
    c = comparison
    return replace(
        c,
        first=c.second,
        second=c.first,
        difference=-c.difference,
        low=-c.high,
        high=-c.low,
        seeds=(c.seeds[1], c.seeds[0]),
    )


def words(card: Sequence[Section]) -> Table:
    """Return a row a claim: the word of each task on it; empty where it does not ask that task."""
    rows = []
    for section in card:
        for claim in section.claims:
            said = {verdict.task: verdict.word or "no verdict" for verdict in claim.verdicts}
            rows.append((claim.statement, *(said.get(task, "") for task in TASKS)))
    return Table(("claim", *TASKS), tuple(rows))
