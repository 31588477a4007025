"""The report: one page of all benchmarks, from the claims down to single answers, that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.grid.settings import Benchmark, Cell
from benchmarks.report.claims import Section
from benchmarks.report.claims_card import card_html
from benchmarks.report.html import details, document, table, text, values
from benchmarks.report.papers import Answer, paragraph, paragraph_html
from benchmarks.report.singles import Single
from benchmarks.report.style import Drawing, svg
from benchmarks.report.tables import (
    Table,
    comparisons_table,
    gaps,
    is_shown,
    metrics_of,
    notes,
    outdated,
    percent,
    results_table,
    size,
    sweeps_table,
)

if TYPE_CHECKING:
    from softprompts.metrics.significance import Comparison

TITLE = "Soft Prompt Recipes: what the records say"
LONGEST = 600  # characters of a prompt that are shown: a page has to load on a phone
UNITS = {"gib": " GiB", "kwh": " kWh"}


def render_page(
    benchmarks: Sequence[Benchmark],
    comparisons: Mapping[str, Sequence[Comparison]],
    drawings: Mapping[str, Sequence[Drawing]],
    card: Sequence[Section],
    papers: Sequence[Answer] = (),
    alone: Sequence[Single] = (),
    shown: int = 10,
) -> str:
    """Return the page.

    Args:
        benchmarks: in the order of their sections.
        comparisons: of each benchmark, by its name.
        drawings: the figures of each benchmark, by its name.
        card: sections of the claims card.
        papers: what the papers' experiments say, shown in the sections of their grids.
        alone: those that take no grid, with a section each.
        shown: answers of each run.
    """
    names = [*(b.name for b in benchmarks), *(s.answer.experiment.grid for s in alone)]
    links = [("claims", "claims"), *((name, name.replace("_", " ")) for name in names)]
    items = "".join(f'<li><a href="#{text(target)}">{text(name)}</a></li>' for target, name in links)
    parts = [
        f"<header><h1>{text(TITLE)}</h1>{_origin(benchmarks)}</header>",
        f'<nav aria-label="Sections"><ul>{items}</ul></nav>',
        "<main>",
        card_html(card, notes(benchmarks)),
        *(_benchmark(b, comparisons.get(b.name, ()), drawings.get(b.name, ()), papers, shown) for b in benchmarks),
        *map(_single, alone),
        "</main>",
    ]
    return document(TITLE, "\n".join(parts))


def _origin(benchmarks: Sequence[Benchmark]) -> str:
    """Say how many runs there are, of which base model, and on what they ran."""
    cells = [cell for b in benchmarks for runs in b.cells.values() for cell in runs.values()]
    planned = sum(len(b.grid["methods"]) * len(b.grid["seeds"]) for b in benchmarks)
    models = sorted({str(cell.result.settings["model"]["name_or_path"]) for cell in cells})
    machines = sorted({_machine(cell) for cell in cells})
    commits = sorted({str(cell.result.environment.get("commit", "unknown"))[:12] for cell in cells})
    said = (
        f"{len(cells)} of {planned} planned runs are recorded. Base model: {', '.join(models)}. "
        f"Machines: {'; '.join(machines)}. Commits: {', '.join(commits)}. Settings were chosen on validation rows; "
        "each run was scored once on test rows."
    )
    return f'<p class="faint">{text(said)}</p>'


def _machine(cell: Cell) -> str:
    hardware = cell.result.environment.get("hardware", {})
    names = [*hardware.get("gpus", []), f"{hardware.get('processor', 'unknown processor')}"]
    return f"{' and '.join(names)}, {hardware.get('cores', '?')} cores"


def _benchmark(
    benchmark: Benchmark,
    comparisons: Sequence[Comparison],
    drawings: Sequence[Drawing],
    papers: Sequence[Answer],
    shown: int,
) -> str:
    name = benchmark.name
    parts = [
        f'<section id="{text(name)}"><h2>{text(name.replace("_", " "))}</h2>',
        paragraph_html(papers, name),
        table(results_table(benchmark), f"Results of {name}"),
        '<p class="faint">Metrics in per cent, mean ± standard deviation over seeds; cost is the mean over seeds.</p>',
        *_missing(benchmark),
        f'<div class="figures">{"".join(_figure(d) for d in drawings)}</div>' if drawings else "",
        _comparisons(benchmark, comparisons),
        _sweeps(benchmark),
        "<h3>Runs</h3>",
        *(_run(benchmark, cell, shown) for runs in benchmark.cells.values() for _, cell in sorted(runs.items())),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _single(single: Single) -> str:
    name = single.answer.experiment.grid
    return (
        f'<section id="{text(name)}"><h2>{text(name.replace("_", " "))}</h2><p>{text(paragraph(single.answer))}</p>'
        f'<div class="figures">{_figure(single.drawing)}</div></section>'
    )


def _missing(benchmark: Benchmark) -> list[str]:
    said = []
    if missing := gaps(benchmark):
        items = "".join(f"<li>{text(item)}</li>" for item in missing)
        said.append(f'<div class="verdict fails"><p><b>Missing runs</b></p><ul>{items}</ul></div>')
    if benchmark.outdated:
        said.append(f'<div class="verdict fails"><p>{text(outdated(benchmark))}</p></div>')
    return said


def _figure(drawing: Drawing) -> str:
    drawn = svg(drawing).replace("<svg ", f'<svg aria-label="{text(drawing.caption)}" ', 1)
    return f"<figure>{drawn}<figcaption>{text(drawing.caption)}</figcaption></figure>"


def _comparisons(benchmark: Benchmark, comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return '<p class="faint">No paired comparisons were made.</p>'
    differ = sum(is_shown(c) for c in comparisons)
    note = (
        "Of the same test rows, the first method less the second, in points of per cent. The interval stands for one "
        "comparison alone; p is adjusted for all of them (Holm), and decides."
    )
    shown = table(comparisons_table(benchmark, comparisons), f"Paired comparisons of {benchmark.name}")
    title = f"Paired comparisons: {len(comparisons)}, of which {differ} show a difference"
    return details(title, f'<p class="faint">{note}</p>{shown}')


def _sweeps(benchmark: Benchmark) -> str:
    points = sweeps_table(benchmark)
    if not points.rows:
        return '<p class="faint">No sweep is recorded.</p>'
    title = f"Sweeps: {len(points.rows)} points, and what validation chose"
    return details(title, table(points, f"Sweeps of {benchmark.name}"))


def _run(benchmark: Benchmark, cell: Cell, shown: int) -> str:
    """Return what is recorded of a run: scores, cost, settings, environment, probes and its first answers."""
    result = cell.result
    label = f"{benchmark.label(cell.method)}, seed {cell.seed}"
    main = metrics_of(benchmark)[:1]
    score = "".join(f": {m} {percent(result.metrics[m].value)} %" for m in main)
    scores = [(m, percent(x.value), f"{percent(x.low)} to {percent(x.high)}") for m, x in result.metrics.items()]
    costs = [(_cost_name(key), _cost_value(key, value)) for key, value in result.cost.items()]
    costs += [(f"parameters, {key}", f"{count:,}") for key, count in result.parameters.items()]
    pairs = list(zip(benchmark.rows, cell.answers, strict=True))[:shown]
    answers = [(row["place"], _cut(row["prompt"]), row["target"], answer) for row, answer in pairs]
    parts = [
        table(Table(("metric", "test, %", "95 % interval over rows"), tuple(scores)), f"Scores of {label}"),
        table(Table(("cost", ""), tuple(costs)), f"Cost of {label}"),
        details(
            f"First {len(answers)} of {len(cell.answers)} answers",
            table(Table(("row", "prompt", "target", "answer"), tuple(answers)), f"Answers of {label}", "texts"),
        ),
        values("Settings", result.settings),
        values("Environment and data", {"environment": result.environment, "data": result.data}),
        *([values("Notes", result.notes)] if result.notes else []),
        *([values("Probes", cell.probes)] if cell.probes else []),
        f'<p class="faint">Finished {text(result.finished)}</p>',
    ]
    return details(label + score, "\n".join(parts))


def _cut(prompt: str) -> str:
    return prompt if len(prompt) <= LONGEST else f"{prompt[:LONGEST]} … ({len(prompt) - LONGEST} characters more)"


def _cost_name(key: str) -> str:
    return " ".join(word for word in key.split("_") if word not in (*UNITS, "bytes"))


def _cost_value(key: str, value: float) -> str:
    if key.endswith("bytes"):
        return f"{size(value)} ({value:,.0f} bytes)"
    unit = UNITS.get(key.rpartition("_")[2], "")
    return f"{value:,.0f}{unit}" if value >= 1000 else f"{value:.4g}{unit}"
