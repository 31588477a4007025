"""The one exception that reaches a user as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: what is wrong, where, and the nearest valid choice.

    `softprompts.config.cli` prints it as one line on standard error and exits with code 2.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ` (did you mean "x"?)` for the closest of `valid`, or the list of all where none is close."""
    options = sorted(map(str, valid))
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    if close:
        return f' (did you mean "{close[0]}"?)'
    return f" (valid: {', '.join(options)})" if options else ""
