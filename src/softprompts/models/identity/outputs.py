"""The outputs of an encoder's classifier are bound to the choices by their names, never by their places."""

from __future__ import annotations

import re
from collections.abc import Sequence

from softprompts.errors import UserError, listed


def outputs_of(choices: Sequence[str], names: Sequence[str], whose: str) -> list[int]:
    """Return for each choice the number of the output that has its name; surrounding spaces and case do not count.

    Args:
        choices: the task's.
        names: of the outputs, in their order.
        whose: what has these outputs, for the message.

    Raises:
        UserError: other names than the choices; names that transformers made up, which mean nothing.
    """
    for fold in (str.strip, lambda text: text.strip().casefold()):
        found, wanted = [fold(name) for name in names], [fold(choice) for choice in choices]
        if sorted(found) == sorted(wanted) and len(set(found)) == len(found):
            return [found.index(name) for name in wanted]
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        raise UserError(
            f"task.choices: nothing says which output of {whose} is which choice: it calls them {listed(names)}; "
            "write their names into id2label of its config.json"
        )
    raise UserError(
        f"task.choices: are {listed([choice.strip() for choice in choices])}, but the outputs of {whose} are named "
        f"{listed(names)}; name the choices as these are"
    )


def two_or_more(choices: Sequence[str] | None, whose: str) -> list[str]:
    """Return the names of a classifier's outputs, which are the choices without surrounding spaces.

    Raises:
        UserError: no choices, one choice, or two of one name.
    """
    if not choices:
        raise UserError(f"task.choices: {whose} is an encoder, which chooses between labels: give all of them")
    names = [choice.strip() for choice in choices]
    if len(names) == 1:
        raise UserError(f"task.choices: one choice, {names[0]!r}: {whose} is an encoder, which needs two or more")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"task.choices: {twice!r} is there twice: {whose} has one output for each choice")
    return names
