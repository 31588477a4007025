"""Render pages from sections of runs and the templates of this folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from softprompts.metrics.scoring import Metric, finite_row_scores
from softprompts.metrics.significance import Comparison
from softprompts.reports.pages import tables
from softprompts.reports.pages.style import Drawing, svg
from softprompts.runs.record import Result

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pandas import DataFrame

LONGEST = 600  # most characters of a shown prompt, so that pages load on a phone


@dataclass(frozen=True)
class AnswerRow:
    """A scored row, and each method's prediction for it.

    Args:
        place: place of the row in its file.
        prompt: prompt, cut to `LONGEST` characters.
        target: the target.
        answers: predictions of each method; None if the method was not scored on the row.
        marks: the row's own score of each prediction, as text; empty without a score.
        kind: "same" if all predictions are the same, "text" if they differ, "score" if one scores better than another.
    """

    place: str
    prompt: str
    target: str
    answers: Sequence[str | None]
    marks: Sequence[str]
    kind: str


@dataclass(frozen=True)
class Answers:
    """Predictions side by side: the shown rows, and the number of all rows of each kind."""

    methods: Sequence[str]
    rows: Sequence[AnswerRow]
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """The number of rows."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class RunEntry:
    """A single run: its heading, its record, and further values by title, which are shown as JSON."""

    name: str
    result: Result
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """The section of a page for one task.

    Args:
        key: the section's id in the page.
        title: its heading.
        results: the table of results.
        drawings: its figures.
        compared: the paired comparisons.
        labels: names of the methods in tables.
        answers: predictions side by side; None without any.
        runs: every single run.
        notes: remarks that a reader must know before the numbers.
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

    Everything except figures is escaped, so rows and predictions stay text.
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
    """Return predictions side by side. If not all rows are shown, rows on which methods differ come first.

    Args:
        methods: names of the methods.
        rows: place, prompt and target of each row.
        answers: predictions of each method for each row; None if it was not scored on the row.
        scores: scores of each method's predictions; empty without scores.
        shown: number of shown rows.
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
    """Return a prompt without its middle if it is longer than `LONGEST`, because its end has the question."""
    if len(prompt) <= LONGEST:
        return prompt
    half = LONGEST // 2
    return f"{prompt[:half]} … ({len(prompt) - 2 * half} characters more) … {prompt[-half:]}"


def scores_of_rows(
    metrics: Mapping[str, Metric], answers: Sequence[str | None], targets: Sequence[str]
) -> list[float | None]:
    """Return each prediction's score by the first metric; None if the prediction or its score is missing."""
    known = [i for i, answer in enumerate(answers) if answer is not None]
    found: list[float | None] = [None] * len(answers)
    for metric in [*metrics.values()][:1] if known else ():
        given = [(answers[i] or "").strip() for i in known]
        made = finite_row_scores(metric, given, [targets[i].strip() for i in known])
        for i, score in zip(known, made, strict=True) if made is not None else ():
            found[i] = score
    return found


def key_of(title: str, taken: Sequence[str] = ()) -> str:
    """Return an unused id for a title."""
    key = re.sub(r"[^\w-]+", "-", title).strip("-") or "task"
    return next(name for name in (key, *(f"{key}-{n}" for n in range(2, len(taken) + 3))) if name not in taken)
