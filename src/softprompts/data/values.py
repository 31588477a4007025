"""Check the column names of rows, and convert values to the text that a template shows."""

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

# Types whose `str` is the text that a person would write. A template refuses all others.
SHOWN = (str, Number, date, time, timedelta)  # a datetime is a date, a bool and a Decimal are numbers


@dataclass(frozen=True)
class Unread:
    """A placeholder for an unreadable value. `kind` is its type in the file, e.g. "map<string, int64>"."""

    kind: str


def check_columns(place: str, names: Iterable[str]) -> None:
    """Raise `UserError` if two columns have one name, or names that differ only in surrounding spaces.

    Names that differ in case are different: a template uses the name as it is spelled.
    """
    first: dict[str, tuple[int, str]] = {}
    for number, name in enumerate(names, start=1):
        before, spelled = first.setdefault(name.strip(), (number, name))
        if before != number:
            kind = "have one name" if spelled == name else "have names that differ only in surrounding spaces"
            raise UserError(f'{place}: columns {before} and {number} {kind}, "{short(name.strip())}"')


def plain(value: Any) -> Any:
    """Convert a value for a template: a list to "a, b" or "none", an object to JSON; others stay the same.

    A template then formats it with `str`. A boolean is True or False. A number has the fewest digits that identify it
    (1.50 in JSON is 1.5; a 32-bit float has the digits of its 64-bit value). A decimal has all its digits. A date is
    2024-05-31, a point in time 2024-05-31 12:30:00 and its zone. Values that `trouble` names are never shown.
    """
    if isinstance(value, list):
        return ", ".join(str(plain(v)) for v in value) or "none"
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else value


def trouble(value: Any) -> str | None:
    """Return why a template cannot show a value, as the end of a sentence about its column; None if it can."""
    if value is None:
        return "is null: a missing value, or a hidden label (-1)"
    if isinstance(value, Unread):
        return f"holds {value.kind}, which cannot be read as text"
    if isinstance(value, bytes):
        return "holds bytes, which are not text; store it as a string"
    if isinstance(value, list):
        return next((f"has an item that {why}" for why in map(trouble, value) if why), None)
    if isinstance(value, dict):  # null is a JSON value
        return next((f"has a value that {why}" for v in value.values() if v is not None and (why := trouble(v))), None)
    if not isinstance(value, SHOWN):
        return f"holds a {type(value).__name__}, which is not text"
    endless = isinstance(value, float | Decimal) and not math.isfinite(value)
    # NaT, a missing point in time, is a date that equals nothing.
    return f"is {value}, which is not a value" if endless or value != value else None
