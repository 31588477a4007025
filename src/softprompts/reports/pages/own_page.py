"""Write the page about a user's own runs: one HTML file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompts.config.tools import ReportConfig
from softprompts.errors import UserError, logger, short
from softprompts.reports.pages.compared import compare_on_common_rows
from softprompts.reports.pages.figures import draw_runs
from softprompts.reports.pages.frame import metrics_of, numbers_of, recorded_metrics, seeds_in_words
from softprompts.reports.pages.own_runs import OwnRun, find_runs, grouped
from softprompts.reports.pages.page import Answers, RunEntry, Section, key_of, render, scores_of_rows, side_by_side
from softprompts.reports.pages.style import Styles, close, styles_of
from softprompts.reports.pages.tables import results_table
from softprompts.system.files import one_line, write_atomically

from pandas import DataFrame

GENERATOR = "softprompts recipes/report.py"  # identifies pages of this recipe, so that no other file is overwritten
TEMPLATE = Path(__file__).with_name("own_runs.html.j2")


def write_report(config: ReportConfig) -> str:
    """Write the page about all runs in `report.runs`, and return a line with its path.

    Raises:
        UserError: a folder does not exist or has no finished run; the page would replace another file; the disk is
            full.
    """
    folders = [Path(folder) for folder in config.runs]
    output = Path(config.output) if config.output else folders[0] / "report.html"
    replaced = _check_output(output)
    runs, notes = find_runs(folders)
    tasks: dict[str, list[OwnRun]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    sections: list[Section] = []
    for task, own in tasks.items():
        sections.append(_section(task, own, config, [s.key for s in sections]))
    page = render(
        TEMPLATE,
        generator=GENERATOR,
        title=f"Runs in {', '.join(map(str, folders))}",
        origin=_origin(runs),
        links=[(s.key, s.title) for s in sections],
        notes=notes,
        sections=sections,
    )
    for section in sections:
        close(section.drawings)
    with one_line(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page)
    for note in notes:
        logger.info("%s", note)
    return f"{'replaced' if replaced else 'written'}: {output}, with {_counted(len(runs), 'run')}"


def _check_output(output: Path) -> bool:
    """Return whether the page replaces another page of this recipe.

    Raises:
        UserError: another file, or a folder, is there.
    """
    if not os.path.lexists(output):
        return False
    head = b""
    if output.is_file():
        with one_line(output), output.open("rb") as file:
            head = file.read(2000)
    if GENERATOR.encode() not in head:
        raise UserError(f"report.output: {output} exists and is not a page of this recipe; name a new file")
    return True


def _section(task: str, runs: Sequence[OwnRun], config: ReportConfig, taken: Sequence[str]) -> Section:
    methods = grouped(runs)
    metrics = metrics_of([run.result for run in runs])
    frame = DataFrame(
        {"method": name, "seed": run.result.seed, "label": name, "gap": ""} | numbers_of(run.result)
        for name, own in methods.items()
        for run in own
    ).set_index(["method", "seed"])
    notes: list[str] = []
    try:
        loaded = recorded_metrics([run.result for run in runs])
    except UserError as error:
        notes.append(f"No comparison, because the task's metrics cannot be loaded: {error}")
        loaded = {}
    answers = {name: [run.answers for run in own] for name, own in methods.items() if all(r.answers for r in own)}
    templates = {name: _template(own[0]) for name, own in methods.items()}
    compared = compare_on_common_rows(answers, templates, loaded, config.resamples, notes) if loaded else []
    key = key_of(task, taken)
    by_seed = {name: {run.result.seed: run.result for run in own} for name, own in methods.items()}
    styles: Styles = styles_of({name: own[0].method for name, own in methods.items()})
    return Section(
        key=key,
        title=task,
        results=_results(frame, metrics, methods),
        drawings=draw_runs(key, frame, metrics[0] if metrics else None, by_seed, styles),
        compared=compared,
        labels={name: name for name in methods},
        answers=_answers(methods, loaded, config.rows),
        runs=[RunEntry(f"{run.name}, seed {run.result.seed}", run.result) for run in runs],
        notes=notes,
        folded=[("Settings that differ", "An empty cell: the run does not have the setting.", _differing(methods))],
    )


def _results(frame: DataFrame, metrics: Sequence[str], methods: Mapping[str, Sequence[OwnRun]]) -> DataFrame:
    """Return the table of results, with the method and the number of scored rows of each."""
    results = results_table(frame, metrics, "run")
    above = [""] * (len(results) - len(methods))  # for the row of the majority class
    results.insert(1, "method", [*above, *(own[0].label for own in methods.values())], allow_duplicates=True)
    results.insert(2, "rows", [*above, *map(_rows_of, methods.values())], allow_duplicates=True)
    return results


def _template(run: OwnRun) -> str:
    """Return the settings that decide a row's prompt. Runs with the same settings must have the same prompts."""
    settings = run.settings
    kept = {k: v for k, v in settings.items() if k.startswith(("task.prompt", "task.chat", "task.system", "hard."))}
    written = {} if not any(k.startswith("hard.") for k in kept) else {"run": run.name}  # few-shot examples are drawn
    return json.dumps(kept | written, sort_keys=True)


def _rows_of(own: Sequence[OwnRun]) -> str:
    counts = {interval.rows for run in own for interval in run.result.metrics.values()}
    return " or ".join(f"{count:,}" for count in sorted(counts))


def _differing(methods: dict[str, list[OwnRun]]) -> DataFrame:
    """Return a row per setting that differs between methods, a column per method."""
    settings = [own[0].settings for own in methods.values()]
    rows = [
        [key, *("" if key not in own else short(own[key]) for own in settings)]
        for key in dict.fromkeys(key for own in settings for key in own)
        if len({json.dumps(own.get(key, "absent")) for own in settings}) > 1
    ]
    return DataFrame(rows, columns=["setting", *methods])


def _answers(methods: dict[str, list[OwnRun]], metrics: Any, shown: int) -> Answers | None:
    """Return the predictions of each method's first seed side by side; None if there are none."""
    first = {name: own[0] for name, own in methods.items() if own[0].answers}
    rows: dict[tuple[str, str], str] = {}
    for run in first.values():
        for row, (prompt, _) in run.answers.items():  # the shortest, because few-shot examples do not describe the row
            rows[row] = min(rows.get(row, prompt), prompt, key=len)
    if not rows:
        return None
    answers = [[run.answers[row][1] if row in run.answers else None for row in rows] for run in first.values()]
    scores = [scores_of_rows(metrics, said, [target for _, target in rows]) for said in answers]
    heads = [
        f"{name} ({seeds_in_words([run.result.seed])})" if len(methods[name]) > 1 else name
        for name, run in first.items()
    ]
    return side_by_side(
        heads, [(place, prompt, target) for (place, target), prompt in rows.items()], answers, scores, shown
    )


def _origin(runs: Sequence[OwnRun]) -> str:
    models = sorted({run.base for run in runs})
    dates = sorted(run.result.finished[:10] for run in runs)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    count, tasks = _counted(len(runs), "finished run"), _counted(len({run.task for run in runs}), "task")
    return f"{count} of {tasks}, {when}. Base model{'s' * (len(models) > 1)}: {', '.join(models)}."


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
