"""Exceptions that end a run on purpose, helpers for the text of messages, warnings and notices."""

from __future__ import annotations

import difflib
import logging
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

LONGEST = 100  # most characters of one name in a message
NAMES = 20  # most names of a list in a message
LISTED = 300  # characters of a list in a message, after which no further name follows
HEAD = re.compile(r"(\w+\.\w+): ")  # the key that a message begins with

logger = logging.getLogger("softprompts")


class Key(str):
    """The name of a setting within the text of a `UserError`, such as `adapter.any_base`."""


class UserError(ValueError):
    """An error that the user can fix. Its text names the setting, the problem and the nearest valid choice.

    `softprompts.config.cli.cli` prints it as one line on standard error and exits with code 2.

    Args:
        parts: the text in pieces. Pieces that name other settings are `Key`s, so that `under` can rename them.
        key: the wrong setting, which precedes the text. By default the key at the beginning of the text, as in
            "task.schema: no such file"; empty if there is none.
    """

    def __init__(self, *parts: str, key: str = "") -> None:
        head = HEAD.match(parts[0]) if parts and not key else None
        if head:
            key, parts = head[1], (parts[0][head.end() :], *parts[1:])
        self.key, self.parts = key, parts
        super().__init__("".join([f"{key}: " if key else "", *parts]))

    def under(self, names: Mapping[str, str]) -> UserError:
        """Return this error with its settings renamed: {"adapter": "first"} turns adapter.path into first.path.

        Args:
            names: new names of sections or of whole keys.
        """

        def renamed(key: str) -> str:
            section, _, name = key.partition(".")
            return names.get(key) or (f"{names[section]}.{name}" if section in names else key)

        parts = [Key(renamed(part)) if isinstance(part, Key) else part for part in self.parts]
        return UserError(*parts, key=renamed(self.key))


@contextmanager
def settings_named(names: Mapping[str, str]) -> Iterator[None]:
    """Rename the settings of every `UserError` that is raised within this context, by its `under(names)`."""
    try:
        yield
    except UserError as error:
        raise error.under(names) from None


def check_above_zero(key: str, value: float | None) -> None:
    """Raise `UserError` if a setting's value is not above 0. NaN is refused, None passes."""
    if value is not None and not value > 0:
        raise UserError(f"expected a number above 0, found {value}", key=key)


class RunFinished(Exception):  # noqa: N818 - nothing is wrong
    """The resumed run already has its result; `cli` prints the text and exits with code 0."""


class Interrupted(Exception):  # noqa: N818 - nothing is wrong
    """A signal stopped training after a checkpoint; `cli` prints the text and exits with 128 + signal.

    Args:
        text: which run was stopped, and how to continue it.
        number: the number of the signal.
    """

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text, number)
        self.text, self.signal = text, signal.Signals(number)

    def __str__(self) -> str:
        return self.text


def is_first_process() -> bool:
    """Return whether this is the first process of a launch on this machine, or the only one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def warn(text: str) -> None:
    """Log one line as a warning, once for all processes of a launch on one machine."""
    if is_first_process():
        logger.warning(text)


def notice(text: str) -> None:
    """Log a line about the library's work, once for all processes of a launch; `cli` prints it on standard error."""
    if is_first_process():
        logger.info(text, extra={"to_stderr": True})


def short(text: object, most: int = LONGEST) -> str:
    """Return a text for a message: one line, at most `most` characters, unprintable ones escaped."""
    whole = str(text)
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in whole[: most + 1])
    return plain if len(plain) <= most else f"{plain[: most - 4]} ..."


def listed(names: Iterable[object]) -> str:
    """Return names for a message: the first `NAMES` of them or fewer long ones, and the number of the others.

    A name that is empty, or that begins or ends with a space, is quoted to make this visible.
    """
    given = list(map(str, names))
    shown: list[str] = []
    for name in given[:NAMES]:
        shown.append(short(name) if name and name == name.strip() else f'"{short(name)}"')
        if sum(map(len, shown)) >= LISTED:
            break
    more = len(given) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def nearest(name: str, valid: Iterable[str], prefix: str = "") -> str:
    """Return ` (did you mean "x"?)` for the closest of `valid`, or a list of `valid` if none is close.

    `prefix` is put before a suggestion, for example the section that the keys of `valid` lack.
    """
    options = sorted(map(str, valid))
    # Only the beginnings are compared: a thousand labels of one page each would take minutes.
    folded = {option[:LONGEST].casefold(): option for option in options}
    close = difflib.get_close_matches(str(name)[:LONGEST].casefold(), folded, n=1, cutoff=0.5)
    if close:
        return f' (did you mean "{prefix}{short(folded[close[0]])}"?)'
    return f" (valid: {listed(options)})" if options else ""
