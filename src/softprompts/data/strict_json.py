"""Parse JSON by RFC 8259: unlike Python's parser, refuse NaN, repeated keys and half of a surrogate pair."""

from __future__ import annotations

import json
import re
from typing import Any

DEEPEST = 200  # levels of nesting; Python's parser, printer and `repr` fail at about 1,000
_STRING = r'"(?:[^"\\]|\\.)*"'
_CONSTANT = re.compile(rf"{_STRING}|(NaN|-?Infinity)", re.DOTALL)
_BRACKET = re.compile(rf"{_STRING}|([\[{{])|([\]}}])", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u(d[89ab][0-9a-f]{2})(\\ud[c-f][0-9a-f]{2})?|u(d[c-f][0-9a-f]{2})|.)", re.I | re.DOTALL)


class JsonError(ValueError):
    """A text is not valid JSON; the message names the problem and its place."""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. A number too large for a float is infinite; an integer with too many digits
    stays a text.

    Raises:
        JsonError: malformed JSON; NaN or Infinity; a key twice in one object; half of a surrogate pair, which is not a
            character; more than `DEEPEST` levels. The message ends in the column, after the line if there are several.
    """
    try:
        if text.startswith("\ufeff"):
            raise json.JSONDecodeError("Unexpected UTF-8 BOM (decode using utf-8-sig)", text, 0)
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg.removesuffix(' at')} {_place(text, error.pos)}") from None
    except _ConstantError as error:
        at = next(found.start(1) for found in _CONSTANT.finditer(text) if found[1])
        raise JsonError(f"{error} is not a JSON value {_place(text, at)}") from None
    except RecursionError:
        raise JsonError("nested too deeply") from None
    if text.count("[") + text.count("{") > DEEPEST and _depth(text) > DEEPEST:
        raise JsonError(f"nested more than {DEEPEST} levels deep")
    if "\\ud" in text or "\\uD" in text:
        for found in _ESCAPE.finditer(text):
            half = found[3] or (found[1] if not found[2] else None)
            if half:
                raise JsonError(f"half of a surrogate pair: \\u{half} {_place(text, found.start())}")
    return value


class _ConstantError(ValueError):
    pass


def _refuse(constant: str) -> None:
    raise _ConstantError(constant)


def _whole(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # Python converts at most 4,300 digits to a number, or back
        return digits


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise JsonError(f'key "{next(n for i, n in enumerate(names) if n in names[:i])}" appears twice in one object')
    return made


# One for all rows, because making it takes longer than reading a row.
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=_whole, object_pairs_hook=_object)


def _depth(text: str) -> int:
    depth = deepest = 0
    for found in _BRACKET.finditer(text):
        depth += bool(found[1]) - bool(found[2])
        deepest = max(deepest, depth)
    return deepest


def _place(text: str, at: int) -> str:
    column = at - text.rfind("\n", 0, at)
    return (
        f"at line {text.count(chr(10), 0, at) + 1} column {column}" if "\n" in text.strip() else f"at column {column}"
    )
