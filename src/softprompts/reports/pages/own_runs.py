"""Find a user's finished runs in folders, read them, and group them by method over seeds."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, listed
from softprompts.methods.catalog import METHODS
from softprompts.reports.pages.frame import numbers_of
from softprompts.runs.folders import COMPARE_FILE, CONFIG_FILE, RESULT_FILE, leaves, record_of
from softprompts.runs.record import Result, load_result

PREDICTIONS = "predictions.jsonl"
# Settings that may differ within a method: seed, folder, and those that change scores only by rounding.
APART = ("run.", "evaluation.batch_size", "evaluation.bootstrap_resamples")
SEED_NAME = re.compile(r"(?:[\W_]+(?:seed|s)?|seed)[\W_]*$")  # the end of the names' common beginning: "lora/seed"


@dataclass(frozen=True)
class OwnRun:
    """A finished run: its folder's name, its record, and (prompt, prediction) by place and target of the row."""

    name: str
    result: Result
    answers: dict[tuple[str, str], tuple[str, str]]

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings by dotted key, without those of `APART`."""
        found = leaves(self.result.settings)
        return {"recipe": self.result.recipe} | {k: v for k, v in found if not k.startswith(APART)}

    @property
    def task(self) -> str:
        """The task, and the split if it is not test."""
        split = self.result.settings.get("evaluation", {}).get("split", "test")
        return self.result.task if split == "test" else f"{self.result.task}, {split} rows"

    @property
    def base(self) -> str:
        """The base model."""
        return str(self.result.settings["model"]["name_or_path"])

    @property
    def method(self) -> str:
        """The run's recipe, or the method of a sweep."""
        return str(self.result.settings.get("sweep", {}).get("method") or self.result.recipe)

    @property
    def label(self) -> str:
        """The method's name in tables."""
        label = METHODS[self.method].label if self.method in METHODS else self.method.replace("_", " ")
        return f"{label}, {self.result.recipe}" if self.method != self.result.recipe else label


def find_runs(folders: Sequence[Path]) -> tuple[list[OwnRun], list[str]]:
    """Return the finished runs in folders and below them, and a note on each run that is left out.

    Raises:
        UserError: a folder is missing; no folder has a finished run.
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
        notes.insert(0, f"Left out, because they are not finished (no {RESULT_FILE}): {listed(unfinished)}")
    if not runs:
        where = listed([str(folder) for folder in folders])
        raise UserError(f"report.runs: no finished run in {where}" + (f"; {'; '.join(notes)}" if notes else ""))
    return runs, notes


def _run_folders(folder: Path) -> Iterator[Path]:
    """Yield every folder with a finished or unfinished run, sorted."""
    for home in sorted({path.parent for name in (RESULT_FILE, CONFIG_FILE) for path in folder.rglob(name)}):
        if (home / COMPARE_FILE).is_file():  # a comparison is not a run
            continue
        try:
            known = (home / RESULT_FILE).is_file() or record_of(home) is not None  # otherwise a model's config.json
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
        notes.append(f"{name} is left out: its {RESULT_FILE} is damaged, or not from a run")
        return None
    try:
        with (home / PREDICTIONS).open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                run.answers[_short(row["place"]), row["target"]] = (row["prompt"], row["prediction"])
    except FileNotFoundError:
        notes.append(f"{name} has no {PREDICTIONS}, so it is not compared")
    except (OSError, ValueError, KeyError, TypeError):
        run.answers.clear()
        notes.append(f"{name} is not compared: its {PREDICTIONS} is damaged")
    return run


def grouped(runs: Sequence[OwnRun]) -> dict[str, list[OwnRun]]:
    """Return runs by method. Runs whose settings differ only in the seed are one method with one name."""
    groups: dict[Any, list[OwnRun]] = {}
    times: Counter[Any] = Counter()
    for run in runs:
        settings = json.dumps(run.settings, sort_keys=True)
        times[settings, run.result.seed] += 1  # two identical runs are not two seeds
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


def _short(place: str) -> str:
    """Return the place of a row with only the last folder, because clones of a project are in other folders."""
    return "/".join(place.split("/")[-2:])
