"""Prompt and target of a row: templates with `{column}` fields, filled from one record."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from softprompts.data.values import Record, Unread, plain, trouble
from softprompts.errors import Key, UserError, listed, short

FORMATTER = string.Formatter()
WIDEST = 10_000  # most characters that a template may pad a value to


@dataclass(frozen=True)
class Row:
    """One example: `prompt` is what the model reads, `target` what it shall write, `place` where it came from.

    The target is empty for a text of one's own, whose answer nobody knows.
    """

    place: str
    prompt: str
    target: str
    record: Record


def check_template(prompt: str, target: str) -> None:
    """Raise `UserError` for malformed templates, absurd widths, or a space that is lost or doubled between the two."""
    for key, template in (("task.prompt", prompt), ("task.target", target)):
        try:
            fields = list(FORMATTER.parse(template))
        except ValueError as error:
            raise UserError(f"{key}: {short(error)}; write {{{{ and }}}} for literal braces") from None
        for _, _, specification, _ in fields:
            # Width and precision; the digits may be too many for a number.
            found = [number.lstrip("0") for number in re.findall(r"\d+", specification or "")]
            if wide := next((n for n in found if len(n) > len(str(WIDEST)) or int(n or 0) > WIDEST), None):
                raise UserError(
                    f"{key}: {short(wide)} characters, in {short(repr(template))}, are more than {WIDEST:,}"
                )
    if prompt.endswith(" "):
        # "Sentiment: " + "positive" tokenizes unlike any text that the model was trained on.
        raise UserError('task.prompt: ends in a space; let task.target begin with it (target: " {label}")')


def check_task_templates(prompt: str, target: str) -> None:
    """Raise `UserError` for templates that `check_template` refuses, or that make no task.

    A prompt without a column is the same for every row; one that shows all columns of the target gives the answer away.
    A column that is cut, as in `{text:.50}`, may be gone on with.
    """
    check_template(prompt, target)
    fields = [(name, specification or "") for _, name, specification, _ in FORMATTER.parse(prompt) if name is not None]
    if not fields:
        raise UserError(
            "task.prompt: names no column, so that every row would be the same input; write {column} where a column's "
            'value goes, e.g. "{text}"'
        )
    shown = {name for name, specification in fields if "." not in specification}
    asked = list(dict.fromkeys(name for _, name, _, _ in FORMATTER.parse(target) if name is not None))
    # `{translation}` shows `{translation[en]}`, too.
    if asked and all(any(name == s or name.startswith(f"{s}[") for s in shown) for name in asked):
        raise UserError(
            f"task.prompt: shows {short(', '.join(f'{{{name}}}' for name in asked))}, which is all that ",
            Key("task.target"),
            " asks for: the answer would stand in the input; take it out of one of the two",
        )


def render(template: str, record: Record, place: str) -> str:
    """Fill `{column}` fields from one record; `{column[key]}` and `{column[0]}` reach into objects and lists.

    Raises:
        UserError: a column or key that the record lacks, the message lists those there are; a value that is no text,
            as `values.trouble` says: null, NaN, infinite, bytes, of a type that cannot be read; half a character.
    """
    parts = []
    for literal, field, specification, conversion in _pieces(template):
        parts.append(literal)
        if field is not None:
            value = plain(_look_up(record, field, place))
            try:
                parts.append(format(FORMATTER.convert_field(value, conversion), specification or ""))
            except (ValueError, TypeError, ArithmeticError) as error:
                raise UserError(f"{place}: cannot fill the template {short(repr(template))}: {short(error)}") from None
    text = "".join(parts)
    check_characters(place, text)
    return text


@lru_cache(maxsize=16)
def _pieces(template: str) -> tuple[tuple[str, str | None, str | None, Any], ...]:
    return tuple(FORMATTER.parse(template))


def check_characters(place: str, text: str) -> None:
    """Raise `UserError` for a text that holds half of a surrogate pair: no tokenizer reads it, no file takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise UserError(f"{place}: holds {half}: half of a surrogate pair, or a byte that is not UTF-8") from None


def _look_up(record: Record, field: str, place: str) -> Any:
    column, *keys = field.replace("]", "").split("[")
    if column not in record:
        raise UserError(f'{place}: no column "{short(column)}"; columns are: {listed(record)}')
    value = record[column]
    for key in keys:
        if value is None or isinstance(value, Unread):
            break
        inside = {str(n): v for n, v in enumerate(value)} if isinstance(value, list) else value
        if not isinstance(inside, dict) or key not in inside:
            known = listed(inside) if isinstance(inside, dict) else "none, it is no list or object"
            raise UserError(f'{place}: {{{field}}}: no key "{key}" in there; keys are: {known}')
        value = inside[key]
    if why := trouble(value):
        raise UserError(f'{place}: column "{short(field)}" {why}')
    return value
