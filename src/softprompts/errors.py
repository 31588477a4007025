"""The one exception that reaches a user as a single line, the words that it is made of, and warnings."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable

LONGEST = 100  # most characters of one name in a message
NAMES = 20  # most names of a list in a message


class UserError(ValueError):
    """Something the user can mend: what is wrong, where, and the nearest valid choice.

    `softprompts.config.cli.cli` prints it as one line on standard error and exits with code 2.
    """


def warn(text: str) -> None:
    """Print a warning of one line on standard error, once for all processes of a launch on one machine."""
    note(f"warning: {text}")


def note(text: str) -> None:
    """Print one line on standard error, once for all processes of a launch on one machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


def short(text: object, most: int = LONGEST) -> str:
    """Return a text for a message: in one line, unprintable characters escaped, at most `most` characters."""
    whole = str(text)
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in whole[: most + 1])
    return plain if len(plain) <= most else f"{plain[: most - 4]} ..."


def listed(names: Iterable[object]) -> str:
    """Return names for a message: the first `NAMES` of them, and how many more there are.

    A name is quoted if it is empty or begins or ends with a space, which nobody would see.
    """
    given = list(map(str, names))
    shown = [short(name) if name and name == name.strip() else f'"{short(name)}"' for name in given[:NAMES]]
    more = len(given) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def nearest(name: str, valid: Iterable[str], prefix: str = "") -> str:
    """Return ` (did you mean "x"?)` for the closest of `valid`, or the list of them if none is close.

    `prefix` goes in front of a suggestion: what all of `valid` lack, such as the section of a key.
    """
    options = sorted(map(str, valid))
    # Compared by their beginnings: a thousand labels of a page each would take minutes.
    folded = {option[:LONGEST].casefold(): option for option in options}
    close = difflib.get_close_matches(str(name)[:LONGEST].casefold(), folded, n=1, cutoff=0.5)
    if close:
        return f' (did you mean "{prefix}{short(folded[close[0]])}"?)'
    return f" (valid: {listed(options)})" if options else ""
