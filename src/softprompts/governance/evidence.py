"""Read what a governance record is made of: the record of a run, its predictions, its rows, the plan, the checks."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from softprompts.config.paths import ADAPTER
from softprompts.config.sections import TaskConfig, TrainingConfig
from softprompts.data.readers import Source
from softprompts.data.sources import SPLITS, open_sources
from softprompts.data.strict_json import JsonError, parse_json
from softprompts.errors import UserError, listed, nearest, short
from softprompts.methods.catalog import METHODS
from softprompts.metrics.scoring import load_metrics, number_named
from softprompts.models.bundled import BUNDLED, PREFIX
from softprompts.models.paths import names_folder
from softprompts.readiness.plan import Plan
from softprompts.runs.folders import COMPARE_FILE, CONFIG_FILE, OUTPUTS, RESULT_FILE, record_of
from softprompts.runs.record import Result, load_result
from softprompts.system.files import is_file, is_folder, read_bytes
from softprompts.tasks.task import Task, load_task
from softprompts.tasks.templates import Row

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

HERE = Path(__file__).parent
PREDICTIONS = "predictions.jsonl"
READINESS = "readiness.json"


@dataclass(frozen=True)
class Answered:
    """The prediction of a run for a row: the place and target of the row, both as in its file."""

    place: str
    target: str
    prediction: str


@dataclass(frozen=True)
class Evidence:
    """A finished run, as far as its folder tells.

    Args:
        folder: of the run.
        result: its record.
        digest: SHA-256 of result.json.
        predictions: of the scored split, in its order; empty with a `predictions_missing`.
        predictions_missing: why there are none.
        virtual_tokens: positions of the adapter before every row.
    """

    folder: Path
    result: Result
    digest: str
    predictions: Sequence[Answered]
    predictions_missing: str
    virtual_tokens: int

    @property
    def split(self) -> str:
        """The scored split."""
        return str(self.result.settings.get("evaluation", {}).get("split", "test"))

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """The splits of the data. Of rows that were left out, only their number: a short text can be guessed."""
        return {
            name: split | ({"without": {"rows": split["without"]["rows"]}} if "without" in split else {})
            for name, split in self.result.data["splits"].items()
        }

    @property
    def teacher(self) -> tuple[float, float] | None:
        """The weight and the temperature of distillation, by the settings of training; None without a teacher."""
        training = self.result.settings.get("training", {})
        if training.get("teacher") is None and training.get("teacher_context") is None:
            return None
        weight = training.get("teacher_weight", TrainingConfig.teacher_weight)
        return (weight, training.get("teacher_temperature", TrainingConfig.teacher_temperature)) if weight else None

    @property
    def finished(self) -> datetime | None:
        """The time at which the run ended."""
        return moment(self.result.finished)

    @property
    def started(self) -> datetime | None:
        """The time at which the run started, or was last resumed, up to a second."""
        end, seconds = self.finished, self.result.cost.get("seconds_total") or 0.0
        return end - timedelta(seconds=seconds) if end and 0 <= seconds <= end.timestamp() else end

    @property
    def chose_prompt(self) -> bool:
        """Whether the record has the prompts of a template that the run chose: only numbers of rows can be compared."""
        return self.result.recipe == "hard_prompt"

    @property
    def drew_rows(self) -> bool:
        """Whether train in the run's record is the few rows that the method drew, and not the whole split."""
        return self.result.recipe in METHODS and METHODS[self.result.recipe].what == "few"

    @property
    def base(self) -> str:
        """The base model: its name on the Hub if it is a bundled one."""
        name = str(self.result.settings["model"]["name_or_path"])
        bundled = BUNDLED.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
        return bundled.source if bundled else name

    @property
    def base_is_folder(self) -> bool:
        """Whether the base model is a folder, such as that of an earlier run, and not a model that others published."""
        name = str(self.result.settings["model"]["name_or_path"])
        return not name.startswith(PREFIX) and names_folder(name)

    @property
    def version(self) -> str:
        """The name of this version of the model: the day on which the run ended, and the start of its digest."""
        return f"{self.result.finished[:10]}-{self.digest[:12]}"


def moment(text: str) -> datetime | None:
    """Return a time of a record, in UTC if it has no zone; None if it is no time."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Rows:
    """The rows of a run as they are in the files now.

    Args:
        task: the rows; None with a `missing`.
        missing: why there are none.
        sources: the sources of the given splits.
        changed: splits whose rows are not those of the run.
    """

    task: Task | None
    missing: str
    sources: Mapping[str, Source] = field(default_factory=dict)
    changed: Sequence[str] = ()


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads((HERE / "record.schema.json").read_text(encoding="utf-8")))


def read_run(key: str, name: str) -> Evidence:
    """Return what the folder of a finished run tells.

    Args:
        key: the setting, for the message of an error.
        name: the folder.

    Raises:
        UserError: no such folder; no finished run in it; its record is damaged.
    """
    folder = Path(name)
    if not is_folder(folder):
        beside = [str(p.parent) for p in folder.parent.glob(f"*/{RESULT_FILE}")]
        kind = "is a file; name the folder of a run" if os.path.lexists(folder) else "no such folder"
        raise UserError(f"{key}: {kind}: {name}{nearest(name, beside)}")
    file = folder / RESULT_FILE
    if not is_file(file):
        raise _no_record(key, folder)
    data = read_bytes(file)
    result = _read_result(file, data)
    predictions, missing = _read_predictions(folder)
    return Evidence(
        folder, result, hashlib.sha256(data).hexdigest(), predictions, missing, _virtual_tokens(folder, result)
    )


def _no_record(key: str, folder: Path) -> UserError:
    """Return the error for a folder without the record of a run."""
    if is_file(folder / COMPARE_FILE):
        return UserError(f"{key}: {folder} is a comparison of two models; name the folder of one run")
    if is_file(folder / CONFIG_FILE):
        return UserError(
            f"{key}: the run in {folder} is not finished: it has no {RESULT_FILE}; finish it with --resume"
        )
    below = [str(p.parent) for p in sorted(folder.glob(f"*/{RESULT_FILE}"))]
    return UserError(f"{key}: {folder} has no {RESULT_FILE}{nearest(str(folder), below)}")


def _read_result(file: Path, data: bytes) -> Result:
    try:
        tree = parse_json(data.decode())
    except (JsonError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: is damaged: {short(error)}") from None
    if wrong := best_match(_validator().iter_errors(tree)):
        place = "".join(f"{part}: " for part in wrong.absolute_path)
        raise UserError(f"{file}: is damaged, or not from a run: {place}{short(wrong.message)}")
    return load_result(file)


def _read_predictions(folder: Path) -> tuple[list[Answered], str]:
    """Return the predictions of a run; without them, an empty list and the reason."""
    outputs = (record_of(folder) or {}).get(OUTPUTS)
    names = [n for n in outputs if isinstance(n, str)] if isinstance(outputs, list) else []
    name = next((n for n in names if n.endswith(PREDICTIONS)), PREDICTIONS)  # run-1-predictions.jsonl
    file = folder / name
    try:
        # Not splitlines(), which also splits at U+2028 and other characters that a text may hold.
        lines = [json.loads(line) for line in read_bytes(file).decode().split("\n") if line.strip()]
        found = [Answered(line["place"], line["target"], line["prediction"]) for line in lines]
    except UserError:
        return [], f"{name} is missing"
    except (ValueError, KeyError, TypeError, RecursionError):
        return [], f"{name} is damaged"
    if not all(isinstance(text, str) for row in found for text in (row.place, row.target, row.prediction)):
        return [], f"{name} is damaged"
    return found, "" if found else f"{name} is empty"


def _virtual_tokens(folder: Path, result: Result) -> int:
    """Return the largest number of virtual tokens of the run's adapters; that of the settings without an adapter."""
    known = [s["num_virtual_tokens"] for s in result.settings.values() if isinstance(s, dict) and _counts(s)]
    for file in sorted((folder / ADAPTER).rglob("adapter_config.json")):
        try:
            tree = json.loads(read_bytes(file))
        except (UserError, ValueError, RecursionError):
            continue  # the record of a run does not depend on its adapter
        known += [tree["num_virtual_tokens"]] if isinstance(tree, dict) and _counts(tree) else []
    return max(known, default=0)


def _counts(tree: dict[str, Any]) -> bool:
    number = tree.get("num_virtual_tokens")
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def read_rows(evidence: Evidence) -> Rows:
    """Return the rows of a run as they are in the files now, or why they cannot be read."""
    settings = evidence.result.settings["task"]
    try:
        known = {item.name for item in fields(TaskConfig)}
        config = TaskConfig(**{key: value for key, value in settings.items() if key in known})
        task = load_task(config)
        sources = open_sources(config)
    except UserError as error:
        return Rows(None, short(error, 300))
    except (TypeError, AttributeError):  # the settings of another version
        return Rows(None, "this version cannot read the task's settings")
    return Rows(task, "", sources, _other_splits(evidence, task.fingerprint()))


def _other_splits(evidence: Evidence, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the splits of a run whose rows are not those of a task's fingerprint, as far as its record tells."""
    key = "rows" if evidence.chose_prompt else "sha256"
    return [
        name
        for name, split in evidence.result.data["splits"].items()
        if not (evidence.drew_rows and name == "train") and split.get(key) != found.get(name, {}).get(key)
    ]


def score_of(plan: Plan, evidence: Evidence, rows: Rows) -> str:
    """Return the name of the run's score that the plan's metric means, as of `number_named`.

    Args:
        plan: the plan, whose metric may be a number or one of the task's metrics.
        evidence: the run.
        rows: its rows, for metrics that need their schema or data.

    Raises:
        UserError: the run has no such score; the metric cannot be loaded, or fails.
    """
    scores, task = evidence.result.metrics, rows.task
    if plan.metric in scores:
        return plan.metric
    metrics = {Path(name).stem: name for name in evidence.result.settings["task"].get("metrics", [])}
    number = None
    if module := metrics.get(Path(plan.metric).stem):
        try:
            loaded = load_metrics([module], *((task.schema, task.metric_data) if task else ()))
            number = number_named(module, loaded, [p.target for p in evidence.predictions] or [""])
        except Exception as error:  # a user's module may raise anything
            raise UserError(
                f'{plan.path}: kpi.metric: the numbers of "{plan.metric}" are not known: {short(error)}; name a score '
                f"of the run: {listed(scores)}"
            ) from None
    if number is None or number not in scores:
        raise UserError(f'{plan.path}: kpi.metric: the run has no score "{plan.metric}"{nearest(plan.metric, scores)}')
    return number


def scored_rows(evidence: Evidence, rows: Rows) -> tuple[Sequence[Row], str]:
    """Return the rows of the scored split, in the order of the predictions; or no rows and the reason."""
    if evidence.predictions_missing:
        return [], evidence.predictions_missing
    if rows.task is None:
        return [], f"the rows cannot be read: {rows.missing}"
    if evidence.split in rows.changed:
        return [], f"the {evidence.split} rows have changed since the run"
    found = rows.task.splits.get(evidence.split, [])
    if [(short_place(r.place), r.target) for r in found] != [
        (short_place(p.place), p.target) for p in evidence.predictions
    ]:
        return [], f"{PREDICTIONS} is not about the {evidence.split} rows"
    return found, ""


def short_place(place: str) -> str:
    """Return the place of a row with only the last folder, because clones of a project are in other folders."""
    return "/".join(place.split("/")[-2:])


def read_readiness(key: str, name: str | None, evidence: Evidence) -> tuple[dict[str, Any] | None, str]:
    """Return the record of recipes/readiness.py about the rows of a run; None and the reason without it.

    Args:
        key: the setting, for the message of an error.
        name: the file; by default readiness.json in the folder above that of the run.
        evidence: the run.

    Raises:
        UserError: a given file is missing, damaged, or about other rows.
    """
    file = Path(name) if name else evidence.folder.resolve().parent / READINESS
    if name is None and not (is_folder(file.parent) and file.is_file()):
        return None, f"there is no {READINESS} in the folder above that of the run"
    try:
        tree = parse_json(read_bytes(file).decode())
        data = tree["data_of_run"] if "data_of_run" in tree else tree["data"]  # a record of an older version
        checked = {split: {key: data[split][key] for key in ("rows", "sha256")} for split in SPLITS}
        findings = [_checked(finding, tree.get("plan", {})) for finding in tree["findings"]]
    except UserError:
        raise UserError(f"{key}: no such file: {file}") from None
    except (JsonError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if name is None:
            return None, f"{file} is damaged, or not from recipes/readiness.py"
        raise UserError(f"{key}: {file} is damaged, or not from recipes/readiness.py") from None
    if _other_splits(evidence, checked):
        if name is None:
            return None, f"{file} is about other rows"
        raise UserError(f"{key}: {file} is about other rows than the run; run recipes/readiness.py on its config")
    return {"made": str(tree.get("made", "")), "status": str(tree.get("status", "")), "findings": findings}, ""


def _checked(finding: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, str]:
    """Return what a governance record keeps of a finding: also who accepted it, in which status, and why."""
    kept = {name: str(finding[name]) for name in ("key", "title", "status", "found")}
    if reason := finding.get("accepted"):
        status = str(finding.get("accepted_status", ""))  # a record of an older version has none
        kept |= {"accepted": str(reason), "accepted_status": status, "accepted_by": str(plan.get("owner", "the owner"))}
    return kept
