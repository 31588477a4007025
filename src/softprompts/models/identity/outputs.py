"""Match the outputs of an encoder's classifier with the choices by name, never by place."""

from __future__ import annotations

import re
from collections.abc import Sequence

from softprompts.errors import UserError, listed


def outputs_of(choices: Sequence[str], names: Sequence[str], whose: str) -> list[int]:
    """Return the number of each choice's output, by name; surrounding spaces and case do not count.

    Args:
        choices: the task's choices.
        names: names of the outputs, in their order.
        whose: owner of the outputs, for the message.

    Raises:
        UserError: the names are not the choices, or are placeholders of transformers.
    """
    for fold in (str.strip, lambda text: text.strip().casefold()):
        found, wanted = [fold(name) for name in names], [fold(choice) for choice in choices]
        if sorted(found) == sorted(wanted) and len(set(found)) == len(found):
            return [found.index(name) for name in wanted]
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        raise UserError(
            f"task.choices: the outputs of {whose} have no meaningful names ({listed(names)}); write the names of the "
            "choices into id2label of its config.json"
        )
    raise UserError(
        f"task.choices: are {listed([choice.strip() for choice in choices])}, but the outputs of {whose} are named "
        f"{listed(names)}; use these names for the choices"
    )


def two_or_more(choices: Sequence[str] | None, whose: str) -> list[str]:
    """Return the names of a classifier's outputs: the choices without surrounding spaces.

    Raises:
        UserError: there are fewer than two choices, or two have one name.
    """
    if not choices:
        raise UserError(f"task.choices: {whose} is an encoder, which chooses between labels; list all of them")
    names = [choice.strip() for choice in choices]
    if len(names) == 1:
        raise UserError(f"task.choices: one choice, {names[0]!r}: {whose} is an encoder, which requires two or more")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"task.choices: {twice!r} appears twice: {whose} has one output for each choice")
    return names
