"""The finished run whose rows are to be forgotten, and the arguments of its recipe for the new run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from softprompts.config.cli import build_parser, parse_sections
from softprompts.config.tools import ForgetConfig
from softprompts.data.sources import SPLITS
from softprompts.errors import UserError, nearest, short
from softprompts.methods.catalog import METHODS
from softprompts.runs.folders import CONFIG_FILE, RECIPE, RESULT_FILE, leaves, plain, record_of
from softprompts.runs.record import Result, load_result
from softprompts.system.files import is_folder, one_line, text_or_file
from softprompts.training.teacher import SHOTS

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

# Older versions kept all fields of PEFT's configs in these sections, including those that are no settings.
PEFT_SECTIONS = ("prompt", "prefix", "lora")
# Settings of the new run that are its own.
OWN = ("run.output_dir", "run.resume", "task.without")
# What a run may have started from, or learned from, beside its rows.
STARTS = ("prompt.init_adapter", "prefix.init_adapter", "training.teacher")
# Texts of the user that may quote rows. Those of `FILES` may also be the path of a file.
TEXTS = ("task.prompt", "task.system", "prompt.prompt_tuning_init_text", "prefix.init_text", "training.teacher_context")
FILES = ("prefix.init_text", "training.teacher_context")


# The parts of records that are read here, as JSON Schemas.
FINGERPRINTS = {
    "type": "object",
    "required": list(SPLITS),
    "additionalProperties": {
        "type": "object",
        "required": ["rows", "sha256"],
        "properties": {
            "rows": {"type": "integer"},
            "sha256": {"type": "string"},
            "without": {"type": "object", "required": ["rows"], "properties": {"rows": {"type": "integer"}}},
        },
    },
}
DRAWN = {
    "type": "object",
    "required": ["demonstrations"],
    "properties": {"demonstrations": {"type": "integer"}},
}
RESULT = {
    "properties": {
        "settings": {
            "type": "object",
            "required": ["task"],
            "properties": {"task": {"type": "object"}, "context": DRAWN, "cpt": DRAWN},
        },
        "seed": {"type": "integer"},
        "training": {"type": "object", "required": ["step"], "properties": {"step": {"type": "integer"}}},
        "data": {"type": "object", "required": ["splits"], "properties": {"splits": FINGERPRINTS}},
    }
}


@dataclass(frozen=True)
class TrainedRun:
    """A finished training: its folder, the name of its recipe, its settings and its record."""

    folder: Path
    recipe: str
    settings: dict[str, Any]
    result: Result


def trained_run(config: ForgetConfig) -> TrainedRun:
    """Return the run in `forget.run`.

    Raises:
        UserError: several processes; there is no run, or it is not finished; it trains nothing, or several candidates;
            it started from another adapter or had a teacher.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            "launch: recipes/forget.py runs in one process; start it with python, not with accelerate launch"
        )
    folder = Path(config.run or "")
    if not is_folder(folder):
        beside = [str(p.parent) for p in folder.parent.glob(f"*/{RESULT_FILE}")] if is_folder(folder.parent) else []
        raise UserError(f"forget.run: no such folder: {folder}{nearest(str(folder), beside)}")
    settings = record_of(folder)
    if settings is None:
        raise UserError(f"forget.run: {folder} has no {CONFIG_FILE} of a run; name the folder that a recipe wrote")
    recipe = str(settings[RECIPE])
    if recipe not in METHODS or "training" not in settings:
        why = "trains several candidates" if recipe == "sweep" else "trains nothing"
        raise UserError(
            f"forget.run: {folder} is a run of {short(recipe)}, which {why}; name a run of a recipe that trains one "
            f"model, such as recipes/prompt_tuning.py, or set task.without in the config of {short(recipe)}"
        )
    if not (folder / RESULT_FILE).is_file():
        raise UserError(f"forget.run: {folder} has no {RESULT_FILE}, so it is not finished; continue it with --resume")
    flat = dict(leaves(settings))
    for key in STARTS:
        if flat.get(key) and not config.any_start:
            raise UserError(
                f"forget.run: {folder} has {key} {flat[key]}, which may know the rows; set forget.any_start to true if "
                f"it does not, or run recipes/{recipe}.py with task.without and another {key}"
            )
    return TrainedRun(folder, recipe, settings, read_result(folder))


def texts_of(old: TrainedRun) -> Iterator[tuple[str, str]]:
    """Yield the texts of the user that a run learned from or starts from, by the keys of their settings.

    Raises:
        UserError: the file of a text is missing.
    """
    flat = dict(leaves(old.settings))
    for key in TEXTS:
        text = flat.get(key)
        if text and not (key == "training.teacher_context" and SHOTS.fullmatch(text)):  # shots are drawn from the rows
            yield key, text_or_file(key, text) if key in FILES else text


def read_result(folder: Path) -> Result:
    """Return the record of a finished run.

    Raises:
        UserError: it is damaged, or of an unknown version.
    """
    file = folder / RESULT_FILE
    with one_line(file):
        result = load_result(file)
    check_kinds(file, vars(result), RESULT)
    return result


def check_kinds(file: Path, content: object, schema: Mapping[str, Any]) -> None:
    """Raise `UserError` if a part of a file's JSON is missing, or is of another kind than a JSON Schema says."""
    if error := best_match(Draft202012Validator(schema).iter_errors(content)):
        place = f"{'.'.join(map(str, error.absolute_path))}: " if error.absolute_path else ""
        raise UserError(f"{file}: is damaged: {place}{short(error.message)}")


def arguments_without(old: TrainedRun, main: Callable[..., None], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a recipe's `main`: those of the run, but for `changes`.

    Args:
        old: the run.
        main: the recipe's function.
        changes: values of `OWN`, by key.

    Raises:
        UserError: a setting of the run is unknown today, or would have another value.
    """
    _, valid = build_parser(main)
    tree: dict[str, dict[str, Any]] = {}
    for section in get_type_hints(main):
        if section != "return":
            tree[section] = {
                key: value
                for key, value in old.settings.get(section, {}).items()
                if section not in PEFT_SECTIONS or f"{section}.{key}" in valid
            }
    for key, value in changes.items():
        section, _, name = key.partition(".")
        tree[section][name] = value
    try:
        arguments = parse_sections(main, yaml.safe_dump(tree, allow_unicode=True))
    except UserError as error:
        raise UserError(f"{old.folder / CONFIG_FILE}: {error}") from None
    found = dict(leaves(json.loads(json.dumps({name: plain(value) for name, value in arguments.items()}))))
    for key, was in leaves(tree):
        if key not in OWN and was is not None and found.get(key) != was:
            raise UserError(f"{old.folder / CONFIG_FILE}: {key} was {was} and would now be {found.get(key)}")
    return arguments
