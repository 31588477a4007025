"""Before the training: the rows of the run as they were, those to forget, and the arguments of the new run."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softprompts.config.methods import ContextConfig, CPTConfig
from softprompts.config.sections import TaskConfig
from softprompts.config.tools import ForgetConfig
from softprompts.data.without import read_without, without_file
from softprompts.errors import UserError, listed, logger
from softprompts.forgetting.rows import Forgotten, quoted, rows_to_forget
from softprompts.forgetting.runs import TrainedRun, arguments_without, texts_of
from softprompts.methods.soft_prompts.context_tuning import demonstrations
from softprompts.runs.folders import CONFIG_FILE, RESULT_FILE, WITHOUT_FILE
from softprompts.runs.record import Result
from softprompts.system.files import check_new, one_line, write_atomically
from softprompts.tasks.task import Task, load_task, load_unmasked

FORGOTTEN_FILE = "forgotten.json"
SHOWN = 20  # rows that are nearly the same and printed; the file has all


@dataclass(frozen=True)
class Plan:
    """A forgetting that is ready to train.

    old: the run; folder: of the new run; arguments: of its recipe; rows: to forget; trained: whether the new run is
    finished already; config: the settings.
    """

    old: TrainedRun
    folder: Path
    arguments: dict[str, Any]
    rows: Forgotten
    trained: bool
    config: ForgetConfig


def plan_forgetting(config: ForgetConfig, old: TrainedRun, main: Callable[..., None]) -> Plan:
    """Find the rows to forget, write their fingerprints into the new folder, and return the arguments of the new run.

    Args:
        config: settings of the recipe.
        old: the run.
        main: the function of its recipe.

    Raises:
        UserError: the new folder is not empty; the data have changed since the run; a text in the settings of the run
            holds the input of a row to forget; a label of another split would have no row of train; as
            `rows_to_forget`.
    """
    folder = Path(config.output_dir or "")
    _check_folder(folder, old.folder, config.resume)
    file = folder / WITHOUT_FILE
    changes = {"run.output_dir": str(folder), "run.resume": config.resume, "task.without": str(file)}
    arguments = arguments_without(old, main, changes)
    before = replace(arguments["task"], without=old.settings["task"].get("without"))
    task = load_task(before)
    check_same_data("forget.run", old.folder, old.result, task)
    raw = task if before.pii == "keep" else load_unmasked(before)
    rows = rows_to_forget(config, raw)
    if not config.any_start:
        _check_texts(old, rows, raw)
    prints = rows.fingerprints
    if before.without is not None:  # what was left out stays out
        prints |= read_without(before.without)
    arguments["task"] = replace(arguments["task"], max_rows=_max_rows(before, task, rows))
    if config.resume and file.is_file() and read_without(str(file)) != prints:
        raise UserError(f"forget.resume: {file} has other rows than forget.rows and forget.where name; start anew")
    _check_choices(config, arguments["task"], prints)
    with one_line(f"forget.output_dir: {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, without_file(prints))
    for line in _in_words(rows):
        logger.info(line)
    trained = config.resume and (folder / RESULT_FILE).is_file()
    return Plan(old, folder, arguments, rows, trained, config)


def _max_rows(before: TaskConfig, task: Task, rows: Forgotten) -> dict[str, int]:
    """Return `task.max_rows` for the new run: no other row enters in the place of a forgotten one.

    The limit itself is lower, instead of counting the forgotten rows, because these may be deleted from the files.
    """
    gone = Counter(line.split for line in rows.lines)
    limited = {split: limit for split, limit in before.max_rows.items() if len(task.splits[split]) == limit}
    return before.max_rows | {split: limit - gone[split] for split, limit in limited.items()}


def _check_choices(config: ForgetConfig, task: TaskConfig, fingerprints: Collection[str]) -> None:
    """Raise `UserError` if the labels that are left in train are not all those of the other splits.

    They are those of all rows of train, with those that no run uses, so the files are read.
    """
    if task.choices != "from_train":
        return
    with tempfile.TemporaryDirectory(prefix="softprompts-") as folder:
        file = Path(folder) / WITHOUT_FILE
        write_atomically(file, without_file(fingerprints))
        try:
            load_task(replace(task, without=str(file)))
        except UserError as error:
            raise UserError(f"forget.{'where' if config.where else 'rows'}: {error}") from None


def _check_texts(old: TrainedRun, rows: Forgotten, task: Task) -> None:
    """Raise `UserError` if a text in the settings of the run holds the input of a row to forget."""
    for key, text in texts_of(old):
        if (place := quoted(text, rows, task)) is not None:
            raise UserError(
                f"forget.run: {key} of {old.folder} holds the input of {place}, which is to be forgotten; first run "
                f"recipes/{old.recipe}.py with another {key}, or set forget.any_start to true if it is no copy"
            )


def _check_folder(folder: Path, old: Path, resume: bool) -> None:
    if folder.resolve() == old.resolve() or old.resolve() in folder.resolve().parents:
        raise UserError(
            f"forget.output_dir: {folder} is within forget.run, which is to be deleted; name another folder"
        )
    if not resume:
        check_new("forget.output_dir", folder)
    elif not (folder / WITHOUT_FILE).is_file():
        raise UserError(f"forget.resume: {folder} has no {WITHOUT_FILE} of this recipe; leave forget.resume out")
    elif (folder / FORGOTTEN_FILE).is_file():
        raise UserError(f"forget.resume: {folder} is complete; verify it with --forget.check {folder}")


def check_same_data(key: str, folder: Path, result: Result, task: Task) -> None:
    """Raise `UserError`, under the name of a setting, if rows are not those of the run in a folder."""
    for section, kind in (("context", ContextConfig), ("cpt", CPTConfig)):
        if section in result.settings:  # the train split of its record is the drawn examples
            count = result.settings[section]["demonstrations"]
            task = demonstrations(task, kind(demonstrations=count), result.seed)
    now, then = task.fingerprint(), result.data["splits"]
    for split, found in now.items():
        if (text := difference(split, then[split], found)) is not None:
            raise UserError(
                f"{key}: the data of {folder} have changed since its training: {text}; restore the files, or "
                f"train anew with task.without (settings in {folder / CONFIG_FILE})"
            )


def difference(split: str, then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return how the fingerprint of a split differs from an earlier one; None if it does not."""
    if then["rows"] != now["rows"]:
        return f"{split} had {then['rows']:,} rows and now has {now['rows']:,}"
    if then["sha256"] != now["sha256"]:
        return f"{split} has other rows, in the same number ({now['rows']:,})"
    return None


def _in_words(rows: Forgotten) -> list[str]:
    """Return what is forgotten, without its texts."""
    named = Counter(line.split for line in rows.named)
    counts = Counter(row.line.split for row in rows.repeated)
    lines = [f"forgetting {listed(f'{count:,} rows of {split}' for split, count in named.items())}"]
    if counts:
        found = listed(f"{count:,} of {split}" for split, count in counts.items())
        lines.append(f"also forgetting rows that are nearly the same: {found}")
        shown = rows.repeated[:SHOWN]
        lines += [f"  {row.line.place} is like {row.like} (similarity {row.similarity:.2f})" for row in shown]
        if len(rows.repeated) > SHOWN:
            lines.append(f"  and {len(rows.repeated) - SHOWN:,} more, all listed in {FORGOTTEN_FILE}")
    return lines
