"""After the training: that no row in use has a forgotten fingerprint, what it cost, and the check of all this later."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from softprompts.checkpoints.folders import sha256_of
from softprompts.config.paths import ADAPTER, MODEL
from softprompts.config.sections import TaskConfig
from softprompts.data import tables
from softprompts.data.without import read_without
from softprompts.errors import UserError, listed, short
from softprompts.forgetting.plan import FORGOTTEN_FILE, Plan, check_same_data, difference
from softprompts.forgetting.rows import Line, lines_of, repeated
from softprompts.forgetting.runs import FINGERPRINTS, check_kinds, read_result
from softprompts.metrics.scoring import compute_metrics, load_metrics
from softprompts.metrics.significance import compare
from softprompts.runs.folders import RESULT_FILE, WITHOUT_FILE
from softprompts.runs.record import Result, json_text
from softprompts.system.files import is_folder, one_line, write_atomically
from softprompts.tasks.task import Task, load_task, load_unmasked

FORMAT = 1
PREDICTIONS = "predictions.jsonl"
# The parts of `forgotten.json` that the check reads, as a JSON Schema.
CLAIMS = {
    "type": "object",
    "required": ["fingerprints", "forgotten", "data", "adapters", "old_folder"],
    "properties": {
        "fingerprints": {"type": "array", "items": {"type": "string"}},
        "forgotten": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["fingerprint"],
                "properties": {"fingerprint": {"type": "string"}},
            },
        },
        "data": {"type": "object", "required": ["after"], "properties": {"after": FINGERPRINTS}},
        "adapters": {
            "type": "object",
            "required": ["after"],
            "properties": {"after": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
        "old_folder": {"type": "object", "required": ["path"], "properties": {"path": {"type": "string"}}},
    },
}
ADVICE = (
    "The old run still knows the rows. Delete its folder, and every copy, export and served adapter that came from it. "
    "Delete the rows from the data files as well."
)


def _advice() -> list[str]:
    """Return what remains for the user, with the cache of large data if there is one."""
    cache = tables.cache_folder()
    if not is_folder(cache):
        return [ADVICE]
    return [ADVICE, f"{cache} may have copies of the rows. Delete this folder. Runs make it again for large data."]


def prove_forgotten(plan: Plan) -> list[str]:
    """Check the new run, write `forgotten.json`, and return lines to print.

    Raises:
        UserError: a forgotten row is still in use; the new run was trained on other rows than those that are checked.
    """
    config: TaskConfig = plan.arguments["task"]
    task = load_task(config)
    before, after = plan.old.result, read_result(plan.folder)
    check_same_data("forget.run", plan.folder, after, task)
    raw = task if config.pii == "keep" else load_unmasked(config)
    lines = list(lines_of(raw))
    fingerprints = read_without(str(plan.folder / WITHOUT_FILE))
    check_gone(plan.folder, lines, fingerprints)
    if left := repeated(plan.rows.named, lines, plan.config.similarity):
        raise UserError(
            f"{left[0].line.place}: is still in use, and nearly the same as {left[0].like}, which is forgotten"
        )
    advice = _advice()
    record = {
        "format": FORMAT,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": plan.old.recipe,
        "any_start": plan.config.any_start,
        "similarity": plan.config.similarity,
        "forgotten": [
            *({"split": one.split, "place": one.place, "fingerprint": one.fingerprint} for one in plan.rows.named),
            *(
                {"split": one.line.split, "place": one.line.place, "fingerprint": one.line.fingerprint}
                | {"like": one.like, "similarity": round(one.similarity, 4)}
                for one in plan.rows.repeated
            ),
        ],
        "fingerprints": sorted(fingerprints),
        "data": {"before": before.data["splits"], "after": after.data["splits"]},
        "proof": {"rows_checked": len(lines), "with_a_fingerprint": 0, "nearly_the_same": 0},
        "steps": {"before": before.training["step"], "after": after.training["step"]},
        "scores": scores(plan.old.folder, plan.folder, task, plan.arguments["evaluation"].bootstrap_resamples),
        "adapters": {"before": checksums(plan.old.folder), "after": checksums(plan.folder)},
        "old_folder": {"path": str(plan.old.folder), "exists": is_folder(plan.old.folder), "advice": " ".join(advice)},
    }
    write_atomically(plan.folder / FORGOTTEN_FILE, json_text(record) + "\n")
    said = [*_in_words(record), f"written: {plan.folder / FORGOTTEN_FILE}"]
    return [*said, f"{plan.old.folder} still exists. {advice[0]}", *advice[1:]]


def check_gone(folder: Path, lines: Collection[Line], fingerprints: Collection[str]) -> None:
    """Raise `UserError` if a row has one of the fingerprints; without its text."""
    for line in lines:
        if line.fingerprint in fingerprints:
            raise UserError(
                f"{line.place}: is in use, and {folder / WITHOUT_FILE} has its fingerprint {line.fingerprint}"
            )


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of weights that a run saved, by its path in the run's folder."""
    files = [file for name in (ADAPTER, MODEL) for file in sorted((folder / name).rglob("*.safetensors"))]
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}


def scores(old: Path, new: Path, task: Task, resamples: int) -> dict[str, Any] | None:
    """Return the metrics of both runs on the scored rows that they have in common, and the paired difference.

    The difference is that of the new run less the old one, with its 95 % interval over rows. None if one of the two has
    no predictions any more.
    """
    after, before = (_predictions(folder) for folder in (new, old))
    common = [row for row in after if row in before]
    if not common:
        return None
    targets = [target.strip() for _, target, _ in common]
    metrics = load_metrics(task.metrics, task.schema, task.metric_data)
    answers = [[side[row].strip() for row in common] for side in (after, before)]
    found = compare({"after": [answers[0]], "before": [answers[1]]}, targets, metrics, resamples)
    return {
        "rows": len(common),
        "before": compute_metrics(metrics, answers[1], targets),
        "after": compute_metrics(metrics, answers[0], targets),
        "difference": {one.metric: {"value": one.difference, "low": one.low, "high": one.high} for one in found},
    }


def _predictions(folder: Path) -> dict[tuple[str, str, int], str]:
    """Return a run's predictions by prompt, target, and number of the row among equal ones.

    Places do not serve: those of the old run may be in another copy of the data.
    """
    file = folder / PREDICTIONS
    if not file.is_file():
        return {}
    try:
        with one_line(file):
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        seen: Counter[tuple[str, str]] = Counter()
        found = {}
        for line in lines:
            row = line["prompt"], line["target"]
            found[*row, seen[row]] = line["prediction"]
            seen[row] += 1
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is damaged: {short(error)}") from None


def _in_words(record: dict[str, Any]) -> list[str]:
    """Return what a record says, as lines."""
    proof, data, steps = record["proof"], record["data"]["after"], record["steps"]
    removed = listed(f"{found.get('without', {}).get('rows', 0):,} of {split}" for split, found in data.items())
    lines = [
        f"left out: {removed}",
        f"none of the {proof['rows_checked']:,} rows in use has a fingerprint of these, or is nearly a named row",
        f"steps: {steps['before']:,} before, {steps['after']:,} after",
    ]
    if (found := record["scores"]) is None:
        return [*lines, f"scores: not compared, because one of the runs has no {PREDICTIONS} of these rows"]
    for name, change in found["difference"].items():
        both = f"{100 * found['before'][name]:.1f} % before, {100 * found['after'][name]:.1f} % after"
        if not all(map(math.isfinite, change.values())):
            lines.append(
                f"{name} on {found['rows']:,} common rows: {both}; no interval, as a sample of them has no value"
            )
            continue
        value, low, high = (f"{100 * change[key]:+.1f}" for key in ("value", "low", "high"))
        lines.append(f"{name} on {found['rows']:,} common rows: {both}, {value} points ({low} to {high})")
    return lines


def check_forgotten(path: str) -> list[str]:
    """Verify a folder of this recipe against its record, its files and today's data; return lines to print.

    Raises:
        UserError: there is no such folder; something in it is not as `forgotten.json` claims; the data have changed; a
            forgotten row is in use.
    """
    folder = Path(path)
    record = _read(folder)
    claimed = frozenset(record["fingerprints"])
    if read_without(str(folder / WITHOUT_FILE)) != claimed:
        raise UserError(f"forget.check: {folder / WITHOUT_FILE} has other fingerprints than {FORGOTTEN_FILE} claims")
    if not claimed.issuperset(row["fingerprint"] for row in record["forgotten"]):
        raise UserError(f"forget.check: {FORGOTTEN_FILE} of {folder} lists rows whose fingerprints it does not claim")
    result = read_result(folder)
    for split, found in result.data["splits"].items():
        text = difference(split, record["data"]["after"][split], found)
        if text is not None or record["data"]["after"][split] != found:
            raise UserError(
                f"forget.check: {folder} was trained on other data than {FORGOTTEN_FILE} claims: "
                f"{text or f'other rows of {split} were left out'}"
            )
    if (now := checksums(folder)) != record["adapters"]["after"]:
        was = record["adapters"]["after"]
        other = next(name for name in sorted(now.keys() | was.keys()) if now.get(name) != was.get(name))
        raise UserError(f"forget.check: {folder / other} is not the file that {FORGOTTEN_FILE} claims")
    rows = _check_data(folder, result, claimed)
    old = Path(record["old_folder"]["path"])
    return [
        f"{folder}: {len(claimed):,} fingerprints are left out, as claimed",
        f"{FORGOTTEN_FILE}, the run's record and the files of today have the same data fingerprint",
        f"none of the {rows:,} rows in use has one of the fingerprints; {len(now):,} files of weights are as claimed",
        *_advice()[1:],
        f"{old} still exists. {ADVICE}" if is_folder(old) else f"{old} is gone",
    ]


def _check_data(folder: Path, result: Result, claimed: frozenset[str]) -> int:
    """Read the data as the run did, and return the number of rows; raise `UserError` if they are not as recorded."""
    try:
        config = TaskConfig(**result.settings["task"] | {"without": str(folder / WITHOUT_FILE)})
        task = load_task(config)
    except (TypeError, AttributeError):
        raise UserError(f"{folder / RESULT_FILE}: is damaged, or of another version: settings.task") from None
    check_same_data("forget.check", folder, result, task)
    raw = task if config.pii == "keep" else load_unmasked(config)
    lines = list(lines_of(raw))
    check_gone(folder, lines, claimed)
    return len(lines)


def _read(folder: Path) -> dict[str, Any]:
    file = folder / FORGOTTEN_FILE
    if not file.is_file():
        raise UserError(f"forget.check: {folder} has no {FORGOTTEN_FILE}; name a folder that recipes/forget.py wrote")
    try:
        with one_line(file):
            record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            known = f"only {FORMAT} is known; update the package"
            raise UserError(f"{file}: has format {short(record['format'])}, but {known}")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: is damaged: {short(error)}") from None
    check_kinds(file, record, CLAIMS)
    return record
