"""Fill the templates of prompt and target, with `{column}` fields, from one record."""

from __future__ import annotations

import re
from dataclasses import dataclass

from softprompts.data.values import Record, fields_of, pieces_of
from softprompts.errors import Key, UserError, short

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
            fields = fields_of(template)
        except ValueError as error:
            raise UserError(f"{key}: {short(error)}; write {{{{ and }}}} for literal braces") from None
        for field in fields:
            # Width and precision; there may be too many digits for a number.
            found = [number.lstrip("0") for number in re.findall(r"\d+", field.specification)]
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
    fields = fields_of(prompt)
    if not fields:
        raise UserError(
            "task.prompt: names no column, so every row would have the same input; write {column} where a column's "
            'value goes, e.g. "{text}"'
        )
    shown = {field.name for field in fields if "." not in field.specification}
    asked = list(dict.fromkeys(field.name for field in fields_of(target)))
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
    for literal, field in pieces_of(template):
        parts.append(literal)
        if field is not None:
            try:
                parts.append(field.text(record, place))
            except UserError:
                raise
            except (ValueError, TypeError, ArithmeticError) as error:
                raise UserError(f"{place}: cannot fill the template {short(repr(template))}: {short(error)}") from None
    text = "".join(parts)
    check_characters(place, text)
    return text


def check_characters(place: str, text: str) -> None:
    """Raise `UserError` for half of a surrogate pair, which neither tokenizers nor files accept."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise UserError(f"{place}: holds {half}: half of a surrogate pair, or a byte that is not UTF-8") from None
