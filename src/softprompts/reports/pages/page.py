"""A page: sections of runs and what the templates of this folder need to show them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from softprompts.metrics.scoring import Metric, row_scores
from softprompts.metrics.significance import Comparison
from softprompts.reports.pages import tables
from softprompts.reports.pages.style import Drawing, svg
from softprompts.runs.record import Result

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pandas import DataFrame

LONGEST = 600  # characters of a prompt that are shown: a page has to load on a phone


@dataclass(frozen=True)
class AnswerRow:
    """A row that was scored, and each method's answer to it.

    Args:
        place: of the row in its file.
        prompt: cut to `LONGEST` characters.
        target: the right answer.
        answers: of each method; None if the method was not scored on the row.
        marks: the row's own score of each answer, as text; empty without one.
        kind: "same" if all answers are the same, "text" if they differ, "score" if one scores better than another.
    """

    place: str
    prompt: str
    target: str
    answers: Sequence[str | None]
    marks: Sequence[str]
    kind: str


@dataclass(frozen=True)
class Answers:
    """Answers side by side: the rows that are shown, and how many of each kind there are in all."""

    methods: Sequence[str]
    rows: Sequence[AnswerRow]
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """The number of rows."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class RunEntry:
    """A single run: how it is headed, its record, and values that are shown as JSON by their title."""

    name: str
    result: Result
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """What a page says of one task.

    Args:
        key: the section's id in the page.
        title: its heading.
        results: the table of results.
        drawings: its figures.
        compared: the paired comparisons.
        labels: what tables call each method.
        answers: side by side; None without any.
        runs: every single run.
        notes: what a reader must know before the numbers.
        folded: further tables, each with a title and an explanation, which may be empty.
    """

    key: str
    title: str
    results: DataFrame
    drawings: Sequence[Drawing]
    compared: Sequence[Comparison]
    labels: Mapping[str, str]
    answers: Answers | None
    runs: Sequence[RunEntry]
    notes: Sequence[str] = ()
    folded: Sequence[tuple[str, str, DataFrame]] = ()


def render(template: Path, **values: Any) -> str:
    """Return the page of a template, which may extend `base.html.j2` and import `parts.html.j2`.

    Everything is escaped but figures: rows and answers stay text.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"pretty": _pretty, "svg": svg}
    environment.tests["shown"] = tables.is_shown
    environment.globals["tables"] = tables
    return environment.get_template(template.name).render(values)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def side_by_side(
    methods: Sequence[str],
    rows: Sequence[tuple[str, str, str]],
    answers: Sequence[Sequence[str | None]],
    scores: Sequence[Sequence[float | None]],
    shown: int,
) -> Answers:
    """Return answers side by side, those on which methods differ first if not all rows are shown.

    Args:
        methods: labels.
        rows: place, prompt and target of each row.
        answers: of each method, to each row; None if it was not scored on the row.
        scores: of each method, the row's own score of each answer; empty without any.
        shown: rows that are shown.
    """
    made = []
    for (place, prompt, target), said, marks in zip(
        rows, zip(*answers, strict=True), zip_longest(*scores) if scores else [()] * len(rows), strict=True
    ):
        known = [mark for mark in marks if mark is not None]
        texts = {text.strip() for text in said if text is not None}
        kind = "score" if len(set(known)) > 1 else "text" if len(texts) > 1 else "same"
        made.append(AnswerRow(place, cut(prompt), target, said, [_mark(m) for m in marks or [None] * len(said)], kind))
    kinds = ("score", "text", "same")
    counts = {kind: sum(row.kind == kind for row in made) for kind in kinds}
    if len(made) > shown:
        made = sorted(made, key=lambda row: kinds.index(row.kind))[:shown]
    return Answers(methods, made, counts)


def _mark(score: float | None) -> str:
    if score is None:
        return ""
    return {0.0: "✗", 1.0: "✓"}.get(round(score, 6), f"{score:.2f}")


def cut(prompt: str) -> str:
    """Return a prompt with its middle left out if it is longer than `LONGEST`: what it asks is at its end."""
    if len(prompt) <= LONGEST:
        return prompt
    half = LONGEST // 2
    return f"{prompt[:half]} … ({len(prompt) - 2 * half} characters more) … {prompt[-half:]}"


def scores_of_rows(
    metrics: Mapping[str, Metric], answers: Sequence[str | None], targets: Sequence[str]
) -> list[float | None]:
    """Return each answer's own score by the first metric; None for a missing answer, or if the metric has none."""
    known = [i for i, answer in enumerate(answers) if answer is not None]
    found: list[float | None] = [None] * len(answers)
    for metric in [*metrics.values()][:1] if known else ():
        given = [(answers[i] or "").strip() for i in known]
        try:
            made = row_scores(metric, given, [targets[i].strip() for i in known])
        except Exception:  # whatever a module of the user's raises: a correlation has no score of a single row
            break
        for i, score in zip(known, made, strict=True):
            found[i] = float(score)
    return found


def key_of(title: str, taken: Sequence[str] = ()) -> str:
    """Return an id for a title that is not among those taken."""
    key = re.sub(r"[^\w-]+", "-", title).strip("-") or "task"
    return next(name for name in (key, *(f"{key}-{n}" for n in range(2, len(taken) + 3))) if name not in taken)
