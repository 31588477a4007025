"""The README's part of the benchmark: results, the pairs that people weigh, and the word on each claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.report.claims import SOFT, TASKS, WEIGHTS, Section, words_table
from benchmarks.report.frame import Records, metrics_of
from benchmarks.report.tables import comparisons_table, markdown, results_markdown

WEIGHED = ("few_shot", *WEIGHTS)  # what one would take instead of a soft prompt
QUOTED = ("style_rate", "valid_schema")  # what is claimed of soft prompts, beside the main metric


def summary(records: Records, card: Sequence[Section], figures: Mapping[str, Sequence[str]]) -> str:
    """Return Markdown for each task whose grid is recorded to its end; for others how far it is.

    Args:
        records: with the benchmarks of the tasks; any others are left out.
        card: sections of the claims card.
        figures: paths of the figures of each benchmark, by its name.
    """
    parts, complete = [], []
    for task in TASKS:
        benchmark = records.benchmarks.get(task)
        if benchmark is None or benchmark.missing:
            planned = len(records.of(task)) if benchmark else 0
            said = f"{planned - len(benchmark.missing)} of {planned} runs are" if benchmark else "no run is"
            parts.append(f"**{task}**: {said} recorded; its numbers come once all are.")
            continue
        complete.append(task)
        shown = [f"![{task}: {path.rpartition('_')[2].partition('.')[0]}]({path})" for path in figures.get(task, ())]
        parts += [results_markdown(records, task), pairs(records, task), " ".join(shown)]
    if complete:
        parts.append(markdown(words_table(card)))
    return "\n\n".join(part for part in parts if part)


def pairs(records: Records, task: str) -> str:
    """Return soft prompts compared with what one would take instead, by the main metric and `QUOTED`, as Markdown."""
    benchmark = records.benchmarks[task]
    main, *others = metrics_of(benchmark)
    metrics = [main, *(name for name in others if name in QUOTED)]
    found = [records.compared(task, m, soft, other) for m in metrics for soft in SOFT for other in WEIGHED]
    return markdown(comparisons_table(benchmark, [c for c in found if c]))
