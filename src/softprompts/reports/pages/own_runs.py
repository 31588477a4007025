"""A page about a user's own runs: it finds them, groups seeds, compares on common rows and writes one HTML file."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompts.config.tools import ReportConfig
from softprompts.errors import UserError, listed, logger
from softprompts.methods.catalog import METHODS
from softprompts.reports.pages.compared import compare_on_common_rows
from softprompts.reports.pages.figures import draw_runs
from softprompts.reports.pages.frame import metrics_of, numbers_of, recorded_metrics, seeds_in_words
from softprompts.reports.pages.page import Answers, RunEntry, Section, key_of, render, scores_of_rows, side_by_side
from softprompts.reports.pages.style import Styles, close, styles_of
from softprompts.reports.pages.tables import results_table
from softprompts.runs.folders import COMPARE_FILE, CONFIG_FILE, RESULT_FILE, leaves, record_of
from softprompts.runs.record import Result, load_result
from softprompts.system.files import one_line, write_atomically

from pandas import DataFrame

GENERATOR = "softprompts recipes/report.py"  # by which a page of ours is known, so that nothing else is overwritten
TEMPLATE = Path(__file__).with_name("own_runs.html.j2")
PREDICTIONS = "predictions.jsonl"
# Settings that runs of one method may have otherwise: seed and folder; how rows are scored, up to rounding.
APART = ("run.", "evaluation.batch_size", "evaluation.bootstrap_resamples")
SEED_NAME = re.compile(r"(?:[\W_]+(?:seed|s)?|seed)[\W_]*$")  # the end of the names' common beginning: "lora/seed"


@dataclass(frozen=True)
class OwnRun:
    """A finished run: its name, which is its folder's; its record; (prompt, answer) by place and target of the row."""

    name: str
    result: Result
    answers: dict[tuple[str, str], tuple[str, str]]

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings by dotted key, those of `APART` left out."""
        found = leaves(self.result.settings)
        return {"recipe": self.result.recipe} | {k: v for k, v in found if not k.startswith(APART)}

    @property
    def task(self) -> str:
        """The task, and the split if it is another than test."""
        split = self.result.settings.get("evaluation", {}).get("split", "test")
        return self.result.task if split == "test" else f"{self.result.task}, {split} rows"

    @property
    def method(self) -> str:
        """Its recipe, or the method of a sweep."""
        return str(self.result.settings.get("sweep", {}).get("method") or self.result.recipe)

    @property
    def label(self) -> str:
        """What tables call the method."""
        label = METHODS[self.method].label if self.method in METHODS else self.method.replace("_", " ")
        return f"{label}, {self.result.recipe}" if self.method != self.result.recipe else label


def write_report(config: ReportConfig) -> str:
    """Write the page about all runs in `report.runs` and return the line that says where.

    Raises:
        UserError: a folder does not exist or holds no finished run; the page would replace another file; full disk.
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
    """Say whether the page replaces one of its kind.

    Raises:
        UserError: another file, or a folder, is there.
    """
    if not os.path.lexists(output):
        return False
    try:
        ours = GENERATOR in output.read_text(encoding="utf-8")[:2000]
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise UserError(f"report.output: {output} exists and is not a page of this recipe; name a new file")
    return True


def find_runs(folders: Sequence[Path]) -> tuple[list[OwnRun], list[str]]:
    """Return the finished runs in folders and below them, and a note on each that is left out.

    Raises:
        UserError: no such folder; no finished run in any.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"report.runs: {folder} is not a folder")
    root = folders[0] if len(folders) == 1 else Path(os.path.commonpath([f.resolve() for f in folders]))
    homes = dict.fromkeys(home for folder in folders for home in _run_folders(folder.resolve()))
    runs: list[OwnRun] = []
    notes: list[str] = []
    unfinished = []
    for home in homes:
        name = os.path.relpath(home, root.resolve())
        name = home.name if name == "." else name
        if not (home / RESULT_FILE).is_file():
            unfinished.append(name)
        elif run := _read_run(home, name, notes):
            runs.append(run)
    if unfinished:
        notes.insert(0, f"Left out, since they are not finished (no {RESULT_FILE}): {listed(unfinished)}")
    if not runs:
        where = listed([str(folder) for folder in folders])
        raise UserError(f"report.runs: no finished run in {where}" + (f"; {'; '.join(notes)}" if notes else ""))
    return runs, notes


def _run_folders(folder: Path) -> Iterator[Path]:
    """Yield every folder that holds a run or what is left of one, sorted."""
    for home in sorted({path.parent for name in (RESULT_FILE, CONFIG_FILE) for path in folder.rglob(name)}):
        if (home / COMPARE_FILE).is_file():  # a comparison is not a run
            continue
        try:
            known = (home / RESULT_FILE).is_file() or record_of(home) is not None  # else a model's config.json
        except UserError:
            known = True
        if known:
            yield home


def _read_run(home: Path, name: str, notes: list[str]) -> OwnRun | None:
    """Return a finished run, or None and a note."""
    try:
        result = load_result(home / RESULT_FILE)
        run = OwnRun(name, result, {})
        run.settings, run.task, run.label, numbers_of(result), result.settings["task"]["metrics"]
    except UserError as error:
        notes.append(f"{name} is left out: {error}")
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        notes.append(f"{name} is left out: its {RESULT_FILE} is damaged, or not that of a run")
        return None
    try:
        with (home / PREDICTIONS).open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                run.answers[_short(row["place"]), row["target"]] = (row["prompt"], row["prediction"])
    except FileNotFoundError:
        notes.append(f"{name} has no {PREDICTIONS}: it is in no comparison")
    except (OSError, ValueError, KeyError, TypeError):
        run.answers.clear()
        notes.append(f"{name} is in no comparison: its {PREDICTIONS} is damaged")
    return run


def grouped(runs: Sequence[OwnRun]) -> dict[str, list[OwnRun]]:
    """Return runs by method: those whose settings differ by their seed alone are one method, under one name."""
    groups: dict[Any, list[OwnRun]] = {}
    times: Counter[Any] = Counter()
    for run in runs:
        settings = json.dumps(run.settings, sort_keys=True)
        times[settings, run.result.seed] += 1  # the same run made twice is no other seed
        groups.setdefault((settings, times[settings, run.result.seed]), []).append(run)
    alone = {run.name for run in runs}
    named: dict[str, list[OwnRun]] = {}
    for own in groups.values():
        first = own[0]
        prefix = SEED_NAME.sub("", os.path.commonprefix([run.name for run in own]))  # noqa: RUF071 - a text, not a path
        names = [name for name in (prefix, first.label) if name and name not in alone | named.keys()]
        name = first.name if len(own) == 1 else [*names, f"{first.name} and {len(own) - 1} more"][0]
        named[name] = sorted(own, key=lambda run: run.result.seed)
    return named


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
        notes.append(f"No comparison, since the task's metrics cannot be loaded: {error}")
        loaded = {}
    answers = {name: [run.answers for run in own] for name, own in methods.items() if all(r.answers for r in own)}
    templates = {name: _template(own[0]) for name, own in methods.items()}
    compared = compare_on_common_rows(answers, templates, loaded, config.resamples, notes) if loaded else []
    results = results_table(frame, metrics, "run")
    results.insert(1, "method", [*[""] * (len(results) - len(methods)), *(own[0].label for own in methods.values())])
    results.insert(2, "rows", [*[""] * (len(results) - len(methods)), *map(_rows_of, methods.values())])
    key = key_of(task, taken)
    by_seed = {name: {run.result.seed: run.result for run in own} for name, own in methods.items()}
    styles: Styles = styles_of({name: own[0].method for name, own in methods.items()})
    return Section(
        key=key,
        title=task,
        results=results,
        drawings=draw_runs(key, frame, metrics[0] if metrics else None, by_seed, styles),
        compared=compared,
        labels={name: name for name in methods},
        answers=_answers(methods, loaded, config.rows),
        runs=[RunEntry(f"{run.name}, seed {run.result.seed}", run.result) for run in runs],
        notes=notes,
        folded=[("Settings that differ", "An empty cell: the run does not have the setting.", _differing(methods))],
    )


def _template(run: OwnRun) -> str:
    """Return what makes a prompt of a row; runs that have the same must show the same prompt for a row."""
    settings = run.settings
    kept = {k: v for k, v in settings.items() if k.startswith(("task.prompt", "task.chat", "task.system", "hard."))}
    written = {} if not any(k.startswith("hard.") for k in kept) else {"run": run.name}  # its examples are drawn
    return json.dumps(kept | written, sort_keys=True)


def _rows_of(own: Sequence[OwnRun]) -> str:
    counts = {interval.rows for run in own for interval in run.result.metrics.values()}
    return " or ".join(f"{count:,}" for count in sorted(counts))


def _differing(methods: dict[str, list[OwnRun]]) -> DataFrame:
    """Return a row per setting that differs between methods, a column per method."""
    settings = {name: own[0].settings for name, own in methods.items()}
    keys = dict.fromkeys(key for own in settings.values() for key in own)
    rows = [
        {"setting": key, **{name: "" if key not in own else str(own[key]) for name, own in settings.items()}}
        for key in keys
        if len({json.dumps(own.get(key, "absent")) for own in settings.values()}) > 1
    ]
    return DataFrame(rows)


def _answers(methods: dict[str, list[OwnRun]], metrics: Any, shown: int) -> Answers | None:
    """Return the answers of the first seed of each method side by side; None if there are none."""
    first = {name: own[0] for name, own in methods.items() if own[0].answers}
    rows: dict[tuple[str, str], str] = {}
    for run in first.values():
        for row, (prompt, _) in run.answers.items():  # the shortest: solved examples say nothing of the row
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


def _short(place: str) -> str:
    """Return the place of a row with the last folder of its file alone: clones of a project are in other folders."""
    return "/".join(place.split("/")[-2:])


def _origin(runs: Sequence[OwnRun]) -> str:
    models = sorted({str(run.result.settings["model"]["name_or_path"]) for run in runs})
    dates = sorted(run.result.finished[:10] for run in runs)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    count, tasks = _counted(len(runs), "finished run"), _counted(len({run.task for run in runs}), "task")
    return f"{count} of {tasks}, {when}. Base model{'s' * (len(models) > 1)}: {', '.join(models)}."


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
