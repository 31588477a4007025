"""What the library logs, printed where it is asked for."""

from __future__ import annotations

import logging
import os

from softprompts.errors import UserError, nearest

VARIABLE = "SOFTPROMPTS_LOG"


def print_log() -> None:
    """Print the library's log to standard error, from the level that the environment variable SOFTPROMPTS_LOG names.

    Raises:
        UserError: there is no such level.
    """
    level = os.environ.get(VARIABLE)
    if level is None:
        return
    levels = ("debug", "info", "warning", "error")
    if level.lower() not in levels:
        raise UserError(f'{VARIABLE}: "{level}"{nearest(level, levels)}')
    logger = logging.getLogger("softprompts")
    logger.setLevel(level.upper())
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
