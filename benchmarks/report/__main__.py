"""Make the report of the benchmark from its records: a page, tables and claims as Markdown, figures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.grid.settings import Benchmark, load_benchmark
from benchmarks.report.claims import card_markdown, make_card
from benchmarks.report.figures import draw, draw_ensemble, draw_neighbours
from benchmarks.report.frame import Records, compare_methods, make_records
from benchmarks.report.page import Contents, render_page, summary
from benchmarks.report.papers import (
    answers,
    load_experiments,
    of_ensemble,
    of_neighbours,
    papers_markdown,
)
from benchmarks.report.probed import compare_probes
from benchmarks.report.study import draw_study, load_study, study_markdown
from benchmarks.report.tables import TASKS, comparisons_table, notes, results_markdown, sweeps_table
from benchmarks.report.targets import targets_markdown, targets_table
from softprompts.config.cli import cli
from softprompts.errors import UserError
from softprompts.reports.pages.style import close, save_png
from softprompts.reports.pages.tables import markdown
from softprompts.runs.record import load_result
from softprompts.system.files import write_atomically

PICTURES = ("_parameters.png", "_seconds.png")  # the figures in the summary


@dataclass
class ReportConfig:
    """The folders of records and of the report.

    Args:
        records: folder of the benchmarks' records, one folder each.
        study: folder of the study's records.
        times: folder of the records of time to quality.
        page: folder of index.html, summary.md, tables.md, claims.md, targets.md, papers.md and study.md.
        figures: folder of the figures as PNG.
        ensemble: record of an ensemble, from `make record`.
        neighbours: record of a prompt's neighbours, from `make neighbours`.
        rows: number of rows of each benchmark whose predictions the page shows side by side.
    """

    records: str = "results/benchmarks"
    study: str = "results/study"
    times: str = "results/time_to_quality"
    page: str = "results/report"
    figures: str = "docs/figures"
    ensemble: str = "results/ensemble/sentiment.json"
    neighbours: str = "results/neighbours/sentiment.json"
    rows: int = 30


def main(report: ReportConfig) -> None:
    """Read all records, compare the methods, and write all files."""
    every = read(Path(report.records))
    benchmarks = [b for b in every if scored_on(b) == "test"]
    probed = {b.name: compare_probes(b) for b in benchmarks}
    records = make_records(benchmarks, {b.name: compare_methods(b) for b in benchmarks}, probed)
    experiments = load_experiments()
    grids = [experiment.name for experiment in experiments["grids"]]
    card, papers = make_card(records), answers(records, experiments["grids"])
    drawings = {name: draw(records, name, paper=name in grids) for name in records.benchmarks}
    if (file := Path(report.ensemble)).is_file():
        experiment, result = experiments["ensemble"], load_result(file)
        papers.append(of_ensemble(experiment, result))
        drawings[experiment.name] = [draw_ensemble(experiment.name, result)]
    if (file := Path(report.neighbours)).is_file():
        experiment, near = experiments["neighbours"], json.loads(file.read_text(encoding="utf-8"))
        papers.append(of_neighbours(experiment, near))
        drawings[experiment.name] = [draw_neighbours(experiment.name, near)]
    page, figures = Path(report.page), Path(report.figures)
    for folder in (page, figures):
        folder.mkdir(parents=True, exist_ok=True)
    saved = {name: [str(save_png(d, figures)) for d in drawn] for name, drawn in drawings.items()}
    write_atomically(page / "index.html", render_page(Contents(records, drawings, card, papers, report.rows)))
    write_atomically(page / "claims.md", card_markdown(card, notes(records)))
    write_atomically(page / "papers.md", papers_markdown(papers))
    write_atomically(page / "tables.md", tables(records))
    write_atomically(page / "targets.md", targets_markdown(targets_table(records, Path(report.times))))
    for drawn in drawings.values():
        close(drawn)
    write_study(Path(report.study), page, figures, [b for b in every if scored_on(b) == "validation"])
    pictures = {
        name: [os.path.relpath(path, page) for path in paths if path.endswith(PICTURES)]
        for name, paths in saved.items()
    }
    write_atomically(page / "summary.md", f"# Summary\n\n{summary(records, card, pictures)}\n")
    print(f"written: {page / 'index.html'}, Markdown in the same folder, figures in {figures}")


def scored_on(benchmark: Benchmark) -> str:
    """Return the split on which a benchmark's runs are scored."""
    return str(benchmark.grid.get("settings", {}).get("evaluation.split", "test"))


def write_study(records: Path, page: Path, figures: Path, validated: Sequence[Benchmark]) -> None:
    """Write the page of the study, with a figure per task, if it has records.

    `validated` are benchmarks on validation rows. The page has their results, too.
    """
    if study := load_study(records):
        drawn = draw_study(study)
        links = {task: os.path.relpath(save_png(drawing, figures), page) for task, drawing in drawn.items()}
        more = [_on_validation(benchmark) for benchmark in validated]
        write_atomically(page / "study.md", "\n\n".join([study_markdown(study, links).rstrip(), *more]) + "\n")
        close([*drawn.values()])


def _on_validation(benchmark: Benchmark) -> str:
    """Return a section with the results of a benchmark on validation rows, and the differences between its methods."""
    compared = compare_methods(benchmark)
    results = results_markdown(make_records([benchmark], {benchmark.name: compared}), benchmark.name)
    return f"## {benchmark.name}, on validation rows\n\n{results}\n\n{markdown(comparisons_table(benchmark, compared))}"


def read(folder: Path) -> list[Benchmark]:
    """Read every benchmark in a folder, those of the embedded tasks first.

    Raises:
        UserError: no run is recorded; records do not fit together.
    """
    found = [load_benchmark(grid.parent) for grid in sorted(folder.glob("*/grid.json"))]
    if not any(runs for benchmark in found for runs in benchmark.cells.values()):
        raise UserError(f"{folder}: holds no record of a benchmark's run")
    return sorted(found, key=lambda b: (TASKS.index(b.name) if b.name in TASKS else len(TASKS), b.name))


def tables(records: Records) -> str:
    """Return results, paired comparisons and sweeps of all benchmarks as Markdown."""
    parts = ["# Results"]
    for name, benchmark in records.benchmarks.items():
        parts += [f"## {name}", results_markdown(records, name)]
        if compared := records.comparisons[name]:
            parts.append(markdown(comparisons_table(benchmark, compared)))
        if benchmark.sweeps:
            parts.append(markdown(sweeps_table(benchmark)))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    cli(main)
