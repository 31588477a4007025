"""JSON objects in predictions: parsed strictly, compared as JSON, and checked against a schema."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator


def parsed(text: str) -> dict[str, Any] | None:
    """Return a text as a JSON object; None if it is not one."""
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_object)
        frozen(value)
    except (ValueError, RecursionError):  # RecursionError: nested too deeply for comparisons
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key appears twice")
    return dict(pairs)


def frozen(value: Any) -> Any:
    """Return a hashable value that compares as in JSON: true is not 1, and 1 is 1.0."""
    if isinstance(value, dict):
        return "object", frozenset((k, frozen(v)) for k, v in value.items())
    if isinstance(value, list):
        return "list", tuple(frozen(v) for v in value)
    return "bool" if isinstance(value, bool) else "scalar", value


def equal(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Return whether both are objects, and equal as JSON."""
    return one is not None and other is not None and frozen(one) == frozen(other)


def is_valid(value: dict[str, Any] | None, validator: Draft202012Validator) -> bool:
    """Return whether there is an object, and it is valid."""
    try:
        return value is not None and validator.is_valid(value)
    except (RecursionError, ArithmeticError):  # a value too deep or too large for the validator
        return False
