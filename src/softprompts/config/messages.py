"""Make one-line messages about wrong settings: the key, the value, and the valid values."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from softprompts.errors import UserError, nearest, short


def explain(message: str, sections: dict[str, Any]) -> str:
    """Shorten jsonargparse's message about a value of the wrong type to one line; keep other messages."""
    keys = re.findall(r'Parser key "(\w+)\.(\w+)', message)
    found = re.search(r".*(?:Got|Given) value: (.*)", message, re.DOTALL)
    if not keys or not found:
        return short(" ".join(message.split()), 300)
    section, name = keys[-1]
    return wrong_value(f"{section}.{name}", get_type_hints(sections[section])[name], found[1].strip())


def check_values(section: str, settings: Any, kind: Any = None) -> None:
    """Refuse values that jsonargparse accepts: null for a field without null, NaN and infinity.

    Args:
        section: the name of the settings.
        settings: a dataclass, or an object with the values of its fields before the dataclass is made. The dataclass's
            own checks may then rely on the types. Attributes that are not its fields are ignored.
        kind: the dataclass; by default that of `settings`.

    Raises:
        UserError: a value does not fit its field.
    """
    kind = kind or type(settings)
    hints = get_type_hints(kind)
    for item in fields(kind):
        if not hasattr(settings, item.name):
            continue
        key, hint, value = f"{section}.{item.name}", hints[item.name], getattr(settings, item.name)
        if value is None and item.default is not None and type(None) not in get_args(hint):
            raise UserError(wrong_value(key, hint, "null"))
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{key}: expected {describe(hint)}, found {number}; use a finite number")


def wrong_value(key: str, hint: Any, found: str) -> str:
    """Return the message for a value that does not fit the type of its key."""
    text = describe(hint)
    close = nearest(found, [w for w in text.split(" | ") if re.fullmatch(r"\w+", w) and w not in ("text", "number")])
    advice = close if "did you mean" in close else ""
    if "text" in text and re.match(r"\[?(True|False|\d|\{)", found):
        advice = "; quote texts that YAML reads as another type"
    if "text" in text and (template := re.search(r"\{'([^']+)': None\}", found)):  # YAML reads {text} as a mapping
        advice = f'; quote a template: "{{{short(template[1])}}}"'
    return f"{key}: expected {text}, found {short(found)}{advice}"


def describe(hint: Any) -> str:
    """Describe a type in words: `[text, ...] | null` for `list[str] | None`; the values of a Literal or an Enum."""
    names: dict[Any, str] = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true | false",
        type(None): "null",
    }
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return " | ".join(map(str, arguments))
    if get_origin(hint) is list:
        return f"[{describe(arguments[0])}, ...]"
    if get_origin(hint) is dict:
        return f"{{{describe(arguments[0])}: {describe(arguments[1])}, ...}}"
    if arguments:
        return " | ".join(map(describe, arguments))
    return names.get(hint, getattr(hint, "__name__", str(hint)))
