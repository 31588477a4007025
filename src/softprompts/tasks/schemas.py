"""Read the JSON files of a task: schemas, which check its targets, and data for metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softprompts.data.readers import read_text
from softprompts.data.sources import DATA_DIR, EMBEDDED_PREFIX
from softprompts.data.strict_json import JsonError, parse_json
from softprompts.errors import UserError, nearest, short
from softprompts.system.files import is_file

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

# Keywords whose value contains schemas by name, and keywords whose value contains no schema.
NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
NO_SCHEMA = ("enum", "const", "default", "examples")
# The one format of a JSON Schema that jsonschema checks without further packages. Others, such as "uri-reference", are
# checked only if such a package happens to be installed.
FORMATS = FormatChecker(("regex",))


def read_schema(name: str) -> dict[str, Any]:
    """Read a JSON Schema from a file, or from `embedded:NAME/schema.json`.

    Raises:
        UserError: the file is missing, malformed or not a JSON Schema; or it has a reference to a missing part.
    """
    path = _file("task.schema", name)
    try:
        schema = parse_json(read_text(path))
        Draft202012Validator.check_schema(schema, format_checker=FORMATS)
        if not isinstance(schema, dict):
            raise UserError(f"{path}: expected a JSON object, found {type(schema).__name__}")
        resource = DRAFT202012.create_resource(schema)
        _check_references(resource, Registry().resolver_with_root(resource), name)
    except UserError as error:
        raise UserError(f"task.schema: {error}") from None
    except JsonError as error:
        raise UserError(f"task.schema: {name}: malformed JSON: {short(error)}") from None
    except SchemaError as error:
        raise UserError(f"task.schema: {name} is not a JSON Schema{_where_and_what(error)}") from None
    except (ValueError, RecursionError) as error:  # an invalid address; a schema that is nested too deeply
        raise UserError(f"task.schema: {name} is not a JSON Schema: {short(error)}") from None
    return schema


def read_metric_data(name: str) -> dict[str, Any]:
    """Read the JSON object of `task.metric_data` from a file, or from `embedded:NAME/FILE.json`.

    Raises:
        UserError: no such file; malformed JSON; no object.
    """
    path = _file("task.metric_data", name)
    try:
        data = parse_json(read_text(path))
    except UserError as error:
        raise UserError(f"task.metric_data: {error}") from None
    except JsonError as error:
        raise UserError(f"task.metric_data: {name}: malformed JSON: {short(error)}") from None
    if not isinstance(data, dict):
        raise UserError(f"task.metric_data: {name}: expected a JSON object, found {type(data).__name__}")
    return data


def _file(key: str, name: str) -> Path:
    """Return where the file of a setting is; `embedded:NAME/FILE.json` is one of an embedded task."""
    embedded = name.startswith(EMBEDDED_PREFIX)
    path = DATA_DIR / name.removeprefix(EMBEDDED_PREFIX) if embedded else Path(name)
    if not is_file(path):
        files = DATA_DIR.glob("*/*.json") if embedded else path.parent.glob("*.json")
        valid = [f"{EMBEDDED_PREFIX}{p.relative_to(DATA_DIR)}" if embedded else str(p) for p in files]
        raise UserError(f"{key}: no such file: {name}{nearest(name, valid)}")
    return path


def _check_references(resource: Resource[Any], resolver: Any, name: str) -> None:
    # Checked here, and not when a prediction first reaches a reference.
    contents = resource.contents if isinstance(resource.contents, dict) else {}
    for reference in (contents[key] for key in ("$ref", "$dynamicRef") if key in contents):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise UserError(f"{name} refers to a part that it does not contain: {short(reference)}") from None
    for inner in resource.subresources():
        _check_references(inner, resolver.in_subresource(inner), name)


def names_in(schema: dict[str, Any]) -> list[str]:
    """Return the texts that a JSON Schema allows: names of properties, and texts of `enum` and `const`.

    Each text occurs once. Outer levels come first: an object's names precede the content of its parts. Numbers are left
    out, because they only limit a range or are samples of it.
    """
    found: dict[str, None] = {}
    parts: deque[Any] = deque([schema])
    while parts:
        part = parts.popleft()
        if isinstance(part, list):
            parts.extend(part)
        if not isinstance(part, dict):
            continue
        values = [*part.get("enum", ()), part.get("const")]
        found.update(dict.fromkeys([*part.get("properties", ()), *(v for v in values if isinstance(v, str))]))
        for key, inner in part.items():
            if key in NAMED:
                parts.extend(inner.values())
            elif key not in NO_SCHEMA:
                parts.append(inner)
    return list(found)


def target_check(schema: dict[str, Any]) -> Callable[[str, str], None]:
    """Return a function of a row's place and target.

    It raises `UserError` if the target is not JSON, or violates the schema.
    """
    # An empty registry, because jsonschema would otherwise download references.
    validator = Draft202012Validator(schema, registry=Registry())

    def check(place: str, target: str) -> None:
        try:
            error = best_match(validator.iter_errors(parse_json(target.strip())))
        except JsonError as malformed:
            raise UserError(
                f"{place}: the target is not JSON, as required by task.schema: {short(malformed)}"
            ) from None
        except (RecursionError, ArithmeticError) as failed:  # a circular schema, or a number that is too large
            raise UserError(f"{place}: the target cannot be checked against task.schema: {short(failed)}") from None
        if error is not None:
            raise UserError(f"{place}: the target violates task.schema{_where_and_what(error)}")

    return check


def _where_and_what(error: ValidationError | SchemaError) -> str:
    path = ".".join(map(str, error.absolute_path))
    return f"{' at ' if path else ''}{path}: {short(error.message, 200)}"
