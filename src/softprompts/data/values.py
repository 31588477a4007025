"""Columns and values of a row: which names they may have, and what a template shows of a value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from numbers import Number
from typing import Any

from softprompts.errors import UserError, short

Record = dict[str, Any]

# What `str` turns into the text that a person would write; all else is refused if a template uses it.
SHOWN = (str, Number, date, time, timedelta)  # a datetime is a date, a bool and a Decimal are numbers


@dataclass(frozen=True)
class Unread:
    """Stands for a value that could not be read. `kind` says what it is in the file, e.g. "map<string, int64>"."""

    kind: str


def check_columns(place: str, names: Iterable[str]) -> None:
    """Raise `UserError` for two columns of one name, or whose names differ in surrounding spaces only.

    Names that differ in case are two names: a template takes the one that it spells.
    """
    first: dict[str, tuple[int, str]] = {}
    for number, name in enumerate(names, start=1):
        before, spelled = first.setdefault(name.strip(), (number, name))
        if before != number:
            kind = "have one name" if spelled == name else "have names that differ in surrounding spaces only"
            raise UserError(f'{place}: columns {before} and {number} {kind}, "{short(name.strip())}"')


def plain(value: Any) -> Any:
    """Return a value as a template takes it: a list as "a, b" or "none", an object as JSON, all else as it is.

    A template then shows it by `str`: a truth value as True or False, a number by the fewest digits that give it back
    (1.50 in JSON is 1.5; a 32-bit float shows the digits of its 64-bit value), a decimal with all its digits, a date as
    2024-05-31, a point in time as 2024-05-31 12:30:00 and its zone. What `trouble` names is never shown.
    """
    if isinstance(value, list):
        return ", ".join(str(plain(v)) for v in value) or "none"
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else value


def trouble(value: Any) -> str | None:
    """Return why no template can show a value, as the end of a sentence about its column; None if one can."""
    if value is None:
        return "is null: no value, or a hidden label (-1)"
    if isinstance(value, Unread):
        return f"holds {value.kind}, which cannot be read as text"
    if isinstance(value, bytes):
        return "holds bytes, which are no text; store it as a string"
    if isinstance(value, list):
        return next((f"has an item that {why}" for why in map(trouble, value) if why), None)
    if isinstance(value, dict):  # null is a value of JSON
        return next((f"has a value that {why}" for v in value.values() if v is not None and (why := trouble(v))), None)
    if not isinstance(value, SHOWN):
        return f"holds a {type(value).__name__}, which is no text"
    endless = isinstance(value, float | Decimal) and not math.isfinite(value)
    # NaT, the missing point in time, is a date and equals nothing.
    return f"is {value}, which is no value" if endless or value != value else None
