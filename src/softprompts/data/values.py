"""Check the column names of rows, and convert values to the text that a field of a template shows."""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache
from numbers import Number
from typing import Any, NamedTuple

from softprompts.errors import UserError, listed, short

Record = dict[str, Any]
FORMATTER = string.Formatter()
MASK = re.compile(r"<[A-Z_]+_\d+>")  # `task.pii: mask` puts it in place of personal data

# Whole texts that state nothing, unlike "None yet". "\N" is the null of MySQL's and PostgreSQL's files.
NO_ANSWERS = re.compile(r"\\n|[\W_]*(n[/.]?a\.?|none|no(body|[ -]one)|unknown|null|nil|na[nt])?[\W_]*", re.IGNORECASE)
NO_PERSON = ("anonymous", "guest")

NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
YEAR_FIRST = re.compile(r"(\d{4})[-/.](\d{1,2})(?:[-/.](\d{1,2}))?(?!\d)(.*)", re.DOTALL)
# From 1973 to 2286 in seconds, and from 2001 in milliseconds, microseconds and nanoseconds, which have 13, 16 and 19
# digits. Numbers outside have another meaning, such as months.
SECONDS = ((1e8, 1e10, 1), *((10 ** (9 + n), 10 ** (10 + n), 10**n) for n in (3, 6, 9)))

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


class Field(NamedTuple):
    """A `{name!conversion:specification}` field of a template; `{column[key]}` and `{column[0]}` reach into values."""

    name: str
    specification: str
    conversion: Any

    def text(self, record: Record, place: str) -> str:
        """Return the text that the field shows of a record; a mask for personal data is shown whatever the format.

        Raises:
            UserError: the record lacks a column or key, and the message lists those that it has; a value cannot be
                shown, see `trouble`.
            ValueError, TypeError, ArithmeticError: conversion or specification do not fit the value.
        """
        value = plain(_look_up(record, self.name, place))
        try:
            return format(FORMATTER.convert_field(value, self.conversion), self.specification)
        except ValueError:
            if isinstance(value, str) and MASK.fullmatch(value):  # in place of a number, for which `:.0f` is meant
                return value
            raise


@lru_cache(maxsize=16)
def pieces_of(template: str) -> tuple[tuple[str, Field | None], ...]:
    """Return the literal texts of a template, each with the field that follows it; None follows the last text."""
    return tuple(
        (literal, None if name is None else Field(name, specification or "", conversion))
        for literal, name, specification, conversion in FORMATTER.parse(template)
    )


def fields_of(template: str) -> list[Field]:
    """Return the different fields of a template, in order."""
    return list(dict.fromkeys(field for _, field in pieces_of(template) if field is not None))


def _look_up(record: Record, name: str, place: str) -> Any:
    column, *keys = name.replace("]", "").split("[")
    if column not in record:
        raise UserError(f'{place}: no column "{short(column)}"; columns are: {listed(record)}')
    value = record[column]
    for key in keys:
        if value is None or isinstance(value, Unread):
            break
        inside = {str(n): v for n, v in enumerate(value)} if isinstance(value, list) else value
        if not isinstance(inside, dict) or key not in inside:
            known = listed(inside) if isinstance(inside, dict) else "none, it is not a list or object"
            raise UserError(f'{place}: {{{name}}}: no key "{key}" in there; keys are: {known}')
        value = inside[key]
    if why := trouble(value):
        raise UserError(f'{place}: column "{short(name)}" {why}')
    return value


def moment_of(value: Any) -> datetime:
    """Return a point in time; one without a zone counts as UTC.

    A text is an ISO 8601 or an RFC 2822 date, or begins with the year, as in 2026/05/31 or 2026-05. A number, also in a
    text, is a year, a date such as 20260531, or the time since 1970 in seconds or in a thousandth, millionth or
    billionth of them. Day and month in another order are refused, because 05/06/2026 has two meanings.

    Raises:
        ValueError: the value is none of them.
    """
    if isinstance(value, datetime):
        found = value
    elif isinstance(value, date):
        found = datetime.combine(value, time())
    elif isinstance(value, str):
        text = value.strip()
        found = _moment_of_number(float(text)) if NUMBER.fullmatch(text) else _moment_of_text(text)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = _moment_of_number(value)
    else:
        raise ValueError(f"{type(value).__name__} is no time")
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _moment_of_text(text: str) -> datetime:
    if match := YEAR_FIRST.fullmatch(text):
        year, month, day, rest = match.groups()
        text = f"{year}-{int(month):02d}-{int(day or 1):02d}{rest}"
    text = re.sub(r"\s*(UTC|GMT)$", "+00:00", text) if ":" in text else text
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(text)


def _moment_of_number(number: float) -> datetime:
    for least, most, scale in SECONDS:
        if least <= number < most:
            return datetime.fromtimestamp(number / scale, UTC)
    digits = str(int(number)) if number == number and abs(number) < 1e9 else ""
    if not digits or number != int(number) or len(digits) not in (4, 8):
        raise ValueError(f"{number} is no time")
    return datetime.strptime(digits, "%Y" if len(digits) == 4 else "%Y%m%d").replace(tzinfo=UTC)


def is_no_answer(value: Any) -> bool:
    """Return whether a value is a text that states nothing, such as "n/a", "none", "unknown" or "?"."""
    return isinstance(value, str) and NO_ANSWERS.fullmatch(value.strip()) is not None


def names_nobody(text: str) -> bool:
    """Return whether a text in a column of people is empty, states nothing, or stands for any person."""
    return is_no_answer(text) or text.strip().casefold() in NO_PERSON
