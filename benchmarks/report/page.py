"""Render the benchmark's page with the template `page.html.j2`, and write its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.grid.settings import Benchmark, Cell
from benchmarks.report import tables
from benchmarks.report.claims import (
    AGAINST,
    FOR,
    OPEN,
    SILENT,
    SOFT,
    WEIGHTS,
    Section as CardSection,
    matrix,
    rule,
    words_table,
)
from benchmarks.report.frame import Records, results_of
from benchmarks.report.papers import Answer
from benchmarks.report.tables import TASKS
from softprompts.metrics.scoring import Metric
from softprompts.reports.pages.frame import gaps, recorded_metrics
from softprompts.reports.pages.page import Answers, RunEntry, Section, render, scores_of_rows, side_by_side
from softprompts.reports.pages.style import Drawing
from softprompts.reports.pages.tables import markdown

TITLE = "Soft Prompt Recipes: results of the benchmark"
# The page's class for each word, and its sign for readers who do not see colours.
SIGNS = {FOR: ("holds", "✓"), AGAINST: ("fails", "✗"), OPEN: ("open", "?"), SILENT: ("", "–")}
# In the summary:
WEIGHED = ("few_shot", *WEIGHTS)  # the alternatives to a soft prompt
QUOTED = ("style_rate", "valid_schema")  # metrics in the claims, in addition to the main metric


@dataclass(frozen=True)
class Contents:
    """The contents of the page.

    Args:
        records: records, with the benchmarks in the order of their sections.
        drawings: the figures of each benchmark, and of each experiment without a grid, by its name.
        card: sections of the claims card.
        papers: the answers to the papers' experiments.
        shown: number of rows of each benchmark whose predictions are shown side by side.
    """

    records: Records
    drawings: Mapping[str, Sequence[Drawing]]
    card: Sequence[CardSection]
    papers: Sequence[Answer] = ()
    shown: int = 30


def render_page(contents: Contents) -> str:
    """Return the page: a table of results, the Pareto front of each task, the claims; then all details."""
    records, drawings = contents.records, contents.drawings
    alone = [a for a in contents.papers if a.experiment.name not in records.benchmarks]
    fronts = _fronts(records)
    return render(
        Path(__file__).with_name("page.html.j2"),
        generator="benchmarks.report",
        title=TITLE,
        origin=_origin(records),
        links=[("results", "results"), ("claims", "claims"), ("comparisons", "comparisons of each claim")]
        + [(name, name.replace("_", " ")) for name in (*records.benchmarks, *(a.experiment.name for a in alone))],
        overview=tables.overview_table(records),
        fronts=[d for name in map(records.main, TASKS) for d in drawings.get(name, ()) if d.name in fronts],
        matrix=matrix(contents.card),
        rule=rule(),
        signs=SIGNS,
        notes=tables.notes(records),
        card=contents.card,
        sections=[_section(contents, benchmark) for benchmark in records.benchmarks.values()],
        papers={a.experiment.name: a for a in contents.papers},
        alone=[(a, drawings.get(a.experiment.name, ())) for a in alone],
    )


def _fronts(records: Records) -> list[str]:
    """Return the names of the figures at the page's head."""
    return [f"{records.main(task)}_parameters" for task in TASKS]


def _section(contents: Contents, benchmark: Benchmark) -> Section:
    records, name = contents.records, benchmark.name
    missing = gaps(records.of(name))
    said = [f"Missing: {'; '.join(missing)}."] if missing else []
    sweeps = tables.sweeps_table(benchmark)
    return Section(
        key=name,
        title=name.replace("_", " "),
        results=tables.results_table(records, name),
        drawings=[d for d in contents.drawings.get(name, ()) if d.name not in _fronts(records)],
        compared=records.comparisons.get(name, ()),
        labels=tables.labels_of(benchmark),
        answers=_answers(benchmark, contents.shown),
        runs=[_entry(benchmark, cell) for cells in benchmark.cells.values() for _, cell in sorted(cells.items())],
        notes=[*said, *filter(None, [tables.outdated(benchmark)])],
        folded=[(f"Sweeps: {len(sweeps)} points, and the choice by validation", "", sweeps)],
    )


def _entry(benchmark: Benchmark, cell: Cell) -> RunEntry:
    probes = {"Probes": cell.probes} if cell.probes else {}
    return RunEntry(f"{benchmark.label(cell.method)}, seed {cell.seed}", cell.result, probes)


def _answers(benchmark: Benchmark, shown: int) -> Answers | None:
    """Return the predictions of each method's first seed side by side; None if there are none."""
    first = {benchmark.label(m): cells[min(cells)].answers for m, cells in benchmark.cells.items() if cells}
    if not first:
        return None
    metrics: dict[str, Metric] = recorded_metrics(results_of(benchmark))
    rows = [(row["place"], row["prompt"], row["target"]) for row in benchmark.rows]
    scores = [scores_of_rows(metrics, said, [target for *_, target in rows]) for said in first.values()]
    return side_by_side([*first], rows, [*first.values()], scores, shown)


def _origin(records: Records) -> str:
    """Return a text with the number of runs, the base model and the machines."""
    results = [result for benchmark in records.benchmarks.values() for result in results_of(benchmark)]
    models = sorted({str(result.settings["model"]["name_or_path"]) for result in results})
    machines = sorted({_machine(result.environment.get("hardware", {})) for result in results})
    return (
        f"{len(results)} of {len(records.runs)} planned runs are recorded. Base model: {', '.join(models)}. "
        f"Machines: {'; '.join(machines)}. Validation rows chose the settings; each run was scored once on test rows."
    )


def _machine(hardware: Mapping[str, object]) -> str:
    gpus = hardware.get("gpus", [])
    names = [*(gpus if isinstance(gpus, list) else []), f"{hardware.get('processor', 'unknown processor')}"]
    return f"{' and '.join(names)}, {hardware.get('cores', '?')} cores"


def summary(records: Records, card: Sequence[CardSection], figures: Mapping[str, Sequence[str]]) -> str:
    """Return the summary as Markdown: the results of each complete grid, and the progress of other grids.

    Args:
        records: records with the benchmarks of the tasks; other benchmarks are left out.
        card: sections of the claims card.
        figures: paths of the figures of each benchmark, by its name.
    """
    parts, complete = [], []
    for task in map(records.main, TASKS):
        benchmark = records.benchmarks.get(task)
        if benchmark is None or benchmark.missing:
            planned = len(records.of(task)) if benchmark else 0
            said = f"{planned - len(benchmark.missing)} of {planned} runs are" if benchmark else "no run is"
            parts.append(f"**{task}**: {said} recorded; results follow when all are.")
            continue
        complete.append(task)
        shown = [f"![{task}: {path.rpartition('_')[2].partition('.')[0]}]({path})" for path in figures.get(task, ())]
        parts += [tables.results_markdown(records, task), pairs(records, task), " ".join(shown)]
    if complete:
        parts.append(markdown(words_table(card)))
    return "\n\n".join(part for part in parts if part)


def pairs(records: Records, task: str) -> str:
    """Return comparisons of soft prompts with their alternatives, by the main metric and `QUOTED`, as Markdown.

    They have no p: that of the report's tables is adjusted for all pairs of the benchmark, and that of a claim for the
    pairs of the claim.
    """
    main, *others = records.metrics(task)
    metrics = [main, *(name for name in others if name in QUOTED)]
    found = [records.compared(task, m, soft, other) for m in metrics for soft in SOFT for other in WEIGHED]
    table = tables.comparisons_table(records.benchmarks[task], [c for c in found if c])
    return markdown(table.drop(columns=["adjusted p", "shown"], errors="ignore"))
