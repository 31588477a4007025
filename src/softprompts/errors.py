"""The one exception that reaches a user as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: what is wrong, where, and the nearest valid choice.

    `softprompts.config.cli` prints it as one line on standard error and exits with code 2.
    """


def nearest(name: str, valid: Iterable[str], prefix: str = "") -> str:
    """Return ` (did you mean "x"?)` for the closest of `valid`, or the list of all where none is close.

    `prefix` goes in front of a suggestion: what all of `valid` lack, such as the section of a key.
    """
    options = sorted(map(str, valid))
    folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.5)
    if close:
        return f' (did you mean "{prefix}{folded[close[0]]}"?)'
    return f" (valid: {', '.join(options)})" if options else ""
