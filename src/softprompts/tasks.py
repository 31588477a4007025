"""A task: rows of `{prompt, target}` for each split, its choices and its metrics."""

from __future__ import annotations

import hashlib
import json
import string
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from softprompts.config import TaskConfig
from softprompts.errors import UserError, nearest
from softprompts.files import is_file, read_bytes
from softprompts.readers import Record, plain
from softprompts.scoring import check_metrics
from softprompts.splits import DATA_DIR, EMBEDDED_PREFIX, Rows, read_splits

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012


@dataclass(frozen=True)
class Row:
    """One example: `prompt` is what the model reads, `target` what it shall write, `place` where it came from."""

    place: str
    prompt: str
    target: str
    record: Record


@dataclass(frozen=True)
class Task:
    """Rows by split, and how they are scored. `choices` holds every possible target, or is None for open ones."""

    name: str
    splits: dict[str, list[Row]]
    choices: tuple[str, ...] | None
    metrics: tuple[str, ...]
    licence: str
    config: TaskConfig
    schema: dict[str, Any] | None = None

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Return, for each split, its number of rows and the SHA-256 of its prompts and targets."""
        result = {}
        for name, rows in self.splits.items():
            digest = hashlib.sha256()
            for row in rows:
                digest.update(f"{row.prompt}\0{row.target}\0".encode())
            result[name] = {"rows": len(rows), "sha256": digest.hexdigest()}
        return result


def load_task(config: TaskConfig) -> Task:
    """Read, filter and render the three splits of a task.

    Raises:
        UserError: settings that exclude each other; missing file, column, dataset or split; no rows left; empty target;
            a label outside the choices; a target that breaks the schema; metrics that do not fit.
    """
    check_template(config.prompt, config.target)
    if config.system is not None and not config.chat:
        raise UserError("task.system: a system message needs task.chat: true")
    if config.schema and config.choices is not None:
        raise UserError("task.schema: is for written answers; take it out, or task.choices")
    check_metrics(config.metrics, config.choices is not None)
    schema = read_schema(config.schema) if config.schema else None
    raw = read_splits(config)
    mapping, choices = _choices(config, raw["train"])
    splits = {name: _render(config, rows, mapping, choices, name) for name, rows in raw.items()}
    if schema is not None:
        _check_targets(schema, splits)
    source = config.dataset or config.other_datasets.get("train") or Path(config.train or "").stem
    return Task(
        name=config.name or source.removeprefix(EMBEDDED_PREFIX),
        splits=splits,
        choices=choices,
        metrics=tuple(config.metrics),
        licence=_licence(config),
        config=config,
        schema=schema,
    )


def with_prompt(task: Task, prompt: str, shots: Sequence[Row] = (), separator: str = "") -> Task:
    """Return the same task with another prompt template, and solved examples (`shots`) in front of every row."""
    check_template(prompt, task.config.target)
    solved = "".join(render(prompt, s.record, s.place) + s.target + separator for s in shots)
    splits = {
        name: [replace(row, prompt=solved + render(prompt, row.record, row.place)) for row in rows]
        for name, rows in task.splits.items()
    }
    return replace(task, splits=splits, config=replace(task.config, prompt=prompt))


def check_template(prompt: str, target: str) -> None:
    """Raise `UserError` where a space would be lost or doubled between prompt and target."""
    for key, template in (("task.prompt", prompt), ("task.target", target)):
        try:
            list(string.Formatter().parse(template))
        except ValueError as error:
            raise UserError(f"{key}: {error}; write {{{{ and }}}} for literal braces") from None
    if prompt.endswith(" "):
        # "Sentiment: " + "positive" tokenizes unlike any text that the model was trained on.
        raise UserError('task.prompt: ends in a space; let task.target begin with it (target: " {label}")')


def render(template: str, record: Record, place: str) -> str:
    """Fill `{column}` fields from one record; `{column[key]}` and `{column[0]}` reach into objects and lists.

    Raises:
        UserError: a column or key that the record lacks, or whose value is null; the message lists those there are.
    """
    formatter = string.Formatter()
    parts = []
    for literal, field, specification, conversion in formatter.parse(template):
        parts.append(literal)
        if field is not None:
            value = plain(_look_up(record, field, place))
            try:
                parts.append(format(formatter.convert_field(value, conversion), specification or ""))
            except (ValueError, TypeError) as error:
                raise UserError(f"{place}: cannot fill the template {template!r}: {error}") from None
    return "".join(parts)


def _look_up(record: Record, field: str, place: str) -> Any:
    column, *keys = field.replace("]", "").split("[")
    if column not in record:
        raise UserError(f'{place}: no column "{column}"; columns are: {", ".join(record)}')
    value = record[column]
    for key in keys:
        if value is None:
            break
        inside = {str(n): v for n, v in enumerate(value)} if isinstance(value, list) else value
        if not isinstance(inside, dict) or key not in inside:
            known = _short(", ".join(inside)) if isinstance(inside, dict) else "none, it is no list or object"
            raise UserError(f'{place}: {{{field}}}: no key "{key}" in there; keys are: {known}')
        value = inside[key]
    if value is None:
        raise UserError(f'{place}: column "{field}" is null: no value, or a hidden label (-1)')
    return value


def read_schema(name: str) -> dict[str, Any]:
    """Read a JSON Schema from a file, or from `embedded:NAME/schema.json`.

    Raises:
        UserError: no such file; malformed JSON; no JSON Schema, or one that refers to what it does not hold.
    """
    embedded = name.startswith(EMBEDDED_PREFIX)
    path = DATA_DIR / name.removeprefix(EMBEDDED_PREFIX) if embedded else Path(name)
    if not is_file(path):
        files = DATA_DIR.glob("*/*.json") if embedded else path.parent.glob("*.json")
        valid = [f"{EMBEDDED_PREFIX}{p.relative_to(DATA_DIR)}" if embedded else str(p) for p in files]
        raise UserError(f"task.schema: no such file: {name}{nearest(name, valid)}")
    try:
        schema = json.loads(read_bytes(path))
        Draft202012Validator.check_schema(schema)
    except ValueError as error:
        raise UserError(f"task.schema: {name}: malformed JSON: {error}") from None
    except SchemaError as error:
        raise UserError(f"task.schema: {name} is no JSON Schema{_where_and_what(error)}") from None
    if not isinstance(schema, dict):
        raise UserError(f"task.schema: {name}: expected a JSON object, found {type(schema).__name__}")
    resource = DRAFT202012.create_resource(schema)
    _check_references(resource, Registry().resolver_with_root(resource), name)
    return schema


def _check_references(resource: Resource[Any], resolver: Any, name: str) -> None:
    # Now, and not when an answer of the model first reaches one.
    if isinstance(resource.contents, dict) and "$ref" in resource.contents:
        try:
            resolver.lookup(resource.contents["$ref"])
        except Unresolvable:
            reference = resource.contents["$ref"]
            raise UserError(f"task.schema: {name} refers to what it does not hold: {reference}") from None
    for inner in resource.subresources():
        _check_references(inner, resolver.in_subresource(inner), name)


def _check_targets(schema: dict[str, Any], splits: dict[str, list[Row]]) -> None:
    # A registry of its own: without one jsonschema would fetch what a schema refers to.
    validator = Draft202012Validator(schema, registry=Registry())
    for row in chain(*splits.values()):
        try:
            error = best_match(validator.iter_errors(json.loads(row.target.strip())))
        except json.JSONDecodeError as malformed:
            raise UserError(
                f"{row.place}: the target is no JSON, as task.schema asks: {malformed.msg} at column {malformed.colno}"
            ) from None
        if error is not None:
            raise UserError(f"{row.place}: the target breaks task.schema{_where_and_what(error)}")


def _where_and_what(error: ValidationError | SchemaError) -> str:
    path = ".".join(map(str, error.absolute_path))
    return f"{' at ' if path else ''}{path}: {_short(error.message)}"


def _short(text: str) -> str:
    return textwrap.shorten(text, 200, placeholder=" ...")


def _choices(config: TaskConfig, train: Rows) -> tuple[dict[str, str] | None, tuple[str, ...] | None]:
    if config.choices is None:
        return None, None
    if isinstance(config.choices, dict):
        mapping = {str(k): v for k, v in config.choices.items()}
        return mapping, tuple(mapping.values())
    if config.choices == "from_train":
        return None, tuple(sorted({render(config.target, record, place) for place, record in train}))
    return None, tuple(config.choices)


def _render(
    config: TaskConfig,
    rows: Rows,
    mapping: dict[str, str] | None,
    choices: tuple[str, ...] | None,
    split: str,
) -> list[Row]:
    result = []
    for place, record in rows:
        target = render(config.target, record, place)
        if mapping is not None and target in mapping:
            target = mapping[target]
        elif mapping is not None:
            raise UserError(f'{place}: label "{target}" is outside task.choices{nearest(target, mapping)}')
        elif choices is not None and target not in choices:
            raise UserError(f'{place}: label "{target}" is outside task.choices{nearest(target, choices)}')
        if not target.strip():
            raise UserError(f"{place}: the target is empty")
        result.append(Row(place, render(config.prompt, record, place), target, record))
    if not result:
        raise UserError(f"task.{split}: no rows")
    return result


def _licence(config: TaskConfig) -> str:
    if not (config.dataset or "").startswith(EMBEDDED_PREFIX):
        return "that of your data"
    folder = DATA_DIR / (config.dataset or "").removeprefix(EMBEDDED_PREFIX)
    return (folder / "LICENSE").read_text(encoding="utf-8").strip().splitlines()[0]
