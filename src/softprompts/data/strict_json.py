"""JSON as RFC 8259 has it: Python's own parser takes NaN, a key that stands twice and half a character."""

from __future__ import annotations

import json
import re
from typing import Any

DEEPEST = 200  # objects and lists inside each other; Python's parser, printer and `repr` give up at about 1,000
_STRING = r'"(?:[^"\\]|\\.)*"'
_CONSTANT = re.compile(rf"{_STRING}|(NaN|-?Infinity)", re.DOTALL)
_BRACKET = re.compile(rf"{_STRING}|([\[{{])|([\]}}])", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u(d[89ab][0-9a-f]{2})(\\ud[c-f][0-9a-f]{2})?|u(d[c-f][0-9a-f]{2})|.)", re.I | re.DOTALL)


class JsonError(ValueError):
    """What is wrong with a text that should be JSON, and where in it."""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. A number beyond a float is infinite; an integer beyond Python's is its digits.

    Raises:
        JsonError: malformed JSON; NaN or Infinity; a key twice in one object; half of a surrogate pair, which is no
            character; more than `DEEPEST` levels. The message ends in the column, and has the line if there are many.
    """
    try:
        if text.startswith("\ufeff"):
            raise json.JSONDecodeError("Unexpected UTF-8 BOM (decode using utf-8-sig)", text, 0)
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg.removesuffix(' at')} {_place(text, error.pos)}") from None
    except _ConstantError as error:
        at = next(found.start(1) for found in _CONSTANT.finditer(text) if found[1])
        raise JsonError(f"{error} is no value of JSON {_place(text, at)}") from None
    except RecursionError:
        raise JsonError("nested too deeply") from None
    if text.count("[") + text.count("{") > DEEPEST and _depth(text) > DEEPEST:
        raise JsonError(f"nested more than {DEEPEST} levels deep")
    if "\\ud" in text or "\\uD" in text:
        for found in _ESCAPE.finditer(text):
            half = found[3] or (found[1] if not found[2] else None)
            if half:
                raise JsonError(f"half of a surrogate pair, no character: \\u{half} {_place(text, found.start())}")
    return value


class _ConstantError(ValueError):
    pass


def _refuse(constant: str) -> None:
    raise _ConstantError(constant)


def _whole(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # Python turns no more than 4,300 digits into a number, or back
        return digits


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise JsonError(f'key "{next(n for i, n in enumerate(names) if n in names[:i])}" stands twice in one object')
    return made


_DECODER = json.JSONDecoder(
    parse_constant=_refuse, parse_int=_whole, object_pairs_hook=_object
)  # makes no new one a row


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
