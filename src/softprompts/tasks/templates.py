"""Fill the templates of prompt and target, with `{column}` fields, from one record."""

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
    """One example: `prompt` is the model's input, `target` the desired output, `place` the source of the row.

    The target is empty for a user's text, whose target is unknown.
    """

    place: str
    prompt: str
    target: str
    record: Record


def check_template(prompt: str, target: str) -> None:
    """Raise `UserError` for malformed templates, absurd widths, or a prompt that ends in a space."""
    for key, template in (("task.prompt", prompt), ("task.target", target)):
        try:
            fields = list(FORMATTER.parse(template))
        except ValueError as error:
            raise UserError(f"{key}: {short(error)}; write {{{{ and }}}} for literal braces") from None
        for _, _, specification, _ in fields:
            # Width and precision; there may be too many digits for a number.
            found = [number.lstrip("0") for number in re.findall(r"\d+", specification or "")]
            if wide := next((n for n in found if len(n) > len(str(WIDEST)) or int(n or 0) > WIDEST), None):
                raise UserError(
                    f"{key}: {short(wide)} characters, in {short(repr(template))}, are more than {WIDEST:,}"
                )
    if prompt.endswith(" "):
        # "Sentiment: " + "positive" tokenizes differently from the texts that the model was trained on.
        raise UserError('task.prompt: ends in a space; begin task.target with the space (target: " {label}")')


def check_task_templates(prompt: str, target: str) -> None:
    """Raise `UserError` for templates that `check_template` refuses, or that do not make a task.

    A prompt without a column is the same for every row. A prompt with all columns of the target gives the target away.
    A cut column, as in `{text:.50}`, is allowed, because the target may continue it.
    """
    check_template(prompt, target)
    fields = [(name, specification or "") for _, name, specification, _ in FORMATTER.parse(prompt) if name is not None]
    if not fields:
        raise UserError(
            "task.prompt: names no column, so every row would have the same input; write {column} where a column's "
            'value goes, e.g. "{text}"'
        )
    shown = {name for name, specification in fields if "." not in specification}
    asked = list(dict.fromkeys(name for _, name, _, _ in FORMATTER.parse(target) if name is not None))
    # `{translation}` also shows `{translation[en]}`.
    if asked and all(any(name == s or name.startswith(f"{s}[") for s in shown) for name in asked):
        raise UserError(
            f"task.prompt: shows {short(', '.join(f'{{{name}}}' for name in asked))}, all that ",
            Key("task.target"),
            " contains, so the input would contain the target; remove it from one of the two",
        )


def render(template: str, record: Record, place: str) -> str:
    """Fill `{column}` fields from one record; `{column[key]}` and `{column[0]}` reach into objects and lists.

    Raises:
        UserError: the record lacks a column or key, and the message lists those that it has; a value cannot be shown,
            see `values.trouble`; the text contains half of a surrogate pair.
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
    """Raise `UserError` for half of a surrogate pair, which neither tokenizers nor files accept."""
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
            known = listed(inside) if isinstance(inside, dict) else "none, it is not a list or object"
            raise UserError(f'{place}: {{{field}}}: no key "{key}" in there; keys are: {known}')
        value = inside[key]
    if why := trouble(value):
        raise UserError(f'{place}: column "{short(field)}" {why}')
    return value
