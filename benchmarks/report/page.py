"""The report as one page, by the template `page.html.j2`, from claims down to answers; and a summary of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import text
from benchmarks.grid.settings import Benchmark, Cell
from benchmarks.report import tables
from benchmarks.report.claims import AGAINST, FOR, OPEN, RULE, SOFT, TASKS, WEIGHTS, Section, words_table
from benchmarks.report.frame import Records, gaps, metrics_of
from benchmarks.report.papers import Answer
from benchmarks.report.style import Drawing, svg

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pandas import DataFrame

TITLE = "Soft Prompt Recipes: what the records say"
LONGEST = 600  # characters of a prompt that are shown: a page has to load on a phone
UNITS = {"gib": " GiB", "kwh": " kWh"}
# In the summary:
WEIGHED = ("few_shot", *WEIGHTS)  # what one would take instead of a soft prompt
QUOTED = ("style_rate", "valid_schema")  # what is claimed of soft prompts, beside the main metric


def render_page(
    records: Records,
    drawings: Mapping[str, Sequence[Drawing]],
    card: Sequence[Section],
    answers: Sequence[Answer] = (),
    shown: int = 10,
) -> str:
    """Return the page.

    Args:
        records: with the benchmarks in the order of their sections.
        drawings: the figures of each benchmark, and of each experiment without a grid, by its name.
        card: sections of the claims card.
        answers: what the papers' experiments say, in the sections of their grids; without a grid, in one of their own.
        shown: answers of each run.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"pretty": _pretty, "svg": _svg}
    environment.tests["shown"] = tables.is_shown
    environment.globals |= {
        "costs": _costs,
        "gaps": gaps,
        "main_score": _main_score,
        "scores": _scores,
        "tables": tables,
    }
    alone = [a.experiment.name for a in answers if a.experiment.name not in records.benchmarks]
    return environment.get_template("page.html.j2").render(
        title=TITLE,
        origin=_origin(records),
        rule=RULE,
        classes={FOR: "holds", AGAINST: "fails", OPEN: "open"},
        notes=tables.notes(records),
        records=records,
        first_answers=lambda benchmark, cell: _answers(benchmark, cell, shown),
        card=card,
        drawings=drawings,
        answers={a.experiment.name: a for a in answers},
        alone=alone,
        names=[*records.benchmarks, *alone],
    )


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def _svg(drawing: Drawing) -> Markup:
    named = Markup('<svg aria-label="{}" ').format(drawing.caption)
    return Markup(svg(drawing).replace("<svg ", named, 1))


def _origin(records: Records) -> str:
    """Say how many runs there are, of which base model, and on what they ran."""
    cells = [cell for b in records.benchmarks.values() for runs in b.cells.values() for cell in runs.values()]
    models = sorted({str(cell.result.settings["model"]["name_or_path"]) for cell in cells})
    machines = sorted({_machine(cell) for cell in cells})
    commits = sorted({str(cell.result.environment.get("commit", "unknown"))[:12] for cell in cells})
    return (
        f"{len(cells)} of {len(records.runs)} planned runs are recorded. Base model: {', '.join(models)}. "
        f"Machines: {'; '.join(machines)}. Commits: {', '.join(commits)}. Settings were chosen on validation rows; "
        "each run was scored once on test rows."
    )


def _machine(cell: Cell) -> str:
    hardware = cell.result.environment.get("hardware", {})
    names = [*hardware.get("gpus", []), f"{hardware.get('processor', 'unknown processor')}"]
    return f"{' and '.join(names)}, {hardware.get('cores', '?')} cores"


def _main_score(benchmark: Benchmark, cell: Cell) -> str:
    metrics = cell.result.metrics
    return "".join(f": {m} {tables.percent(metrics[m].value)} %" for m in metrics_of(benchmark)[:1] if m in metrics)


def _scores(cell: Cell) -> DataFrame:
    percent = tables.percent
    rows = [(m, percent(x.value), f"{percent(x.low)} to {percent(x.high)}") for m, x in cell.result.metrics.items()]
    return DataFrame(rows, columns=["metric", "test, %", "95 % interval over rows"])


def _costs(cell: Cell) -> DataFrame:
    rows = [(_cost_name(key), _cost_value(key, value)) for key, value in cell.result.cost.items()]
    rows += [(f"parameters, {key}", f"{count:,}") for key, count in cell.result.parameters.items()]
    return DataFrame(rows, columns=["cost", ""])


def _cost_name(key: str) -> str:
    return " ".join(word for word in key.split("_") if word not in (*UNITS, "bytes"))


def _cost_value(key: str, value: float) -> str:
    if key.endswith("bytes"):
        return f"{text.size(value)} ({value:,.0f} bytes)"
    unit = UNITS.get(key.rpartition("_")[2], "")
    return f"{value:,.0f}{unit}" if value >= 1000 else f"{value:.4g}{unit}"


def _answers(benchmark: Benchmark, cell: Cell, shown: int) -> DataFrame:
    pairs = zip(benchmark.rows[:shown], cell.answers[:shown], strict=True)
    rows = [(row["place"], _cut(row["prompt"]), row["target"], answer) for row, answer in pairs]
    return DataFrame(rows, columns=["row", "prompt", "target", "answer"])


def _cut(prompt: str) -> str:
    return prompt if len(prompt) <= LONGEST else f"{prompt[:LONGEST]} … ({len(prompt) - LONGEST} characters more)"


def summary(records: Records, card: Sequence[Section], figures: Mapping[str, Sequence[str]]) -> str:
    """Return the summary: Markdown for each task whose grid is recorded to its end; for others how far it is.

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
        parts += [tables.results_markdown(records, task), pairs(records, task), " ".join(shown)]
    if complete:
        parts.append(tables.markdown(words_table(card)))
    return "\n\n".join(part for part in parts if part)


def pairs(records: Records, task: str) -> str:
    """Return soft prompts compared with what one would take instead, by the main metric and `QUOTED`, as Markdown."""
    benchmark = records.benchmarks[task]
    main, *others = metrics_of(benchmark)
    metrics = [main, *(name for name in others if name in QUOTED)]
    found = [records.compared(task, m, soft, other) for m in metrics for soft in SOFT for other in WEIGHED]
    return tables.markdown(tables.comparisons_table(benchmark, [c for c in found if c]))
