"""The library's log: how a command line prints it.

A program that imports the library decides for itself, as with any library that logs: without a handler Python prints
warnings alone. `print_log` makes it print all that a recipe prints, in a notebook for instance.
"""

from __future__ import annotations

import logging
import os
import sys

from softprompts.errors import UserError, logger, nearest

VARIABLE = "SOFTPROMPTS_LOG"
LEVELS = ("debug", "info", "warning", "error")


class Console(logging.Handler):
    """Prints a line for each record: INFO plain on standard output, all else with its level on standard error.

    The streams are those of the moment, and an error in writing, such as a closed pipe, is the caller's.
    """

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno < logging.INFO:
            text = f"{record.levelname} {record.name}: {text}"
        elif record.levelno > logging.INFO:
            text = f"{record.levelname.lower()}: {text}"
        plain = record.levelno == logging.INFO and not getattr(record, "to_stderr", False)
        stream = sys.stdout if plain else sys.stderr
        # A bar of progress, if one is shown, is below the line and not within it.
        if tqdm := sys.modules.get("tqdm"):
            tqdm.tqdm.write(text, file=stream)
        else:
            stream.write(f"{text}\n")
        stream.flush()


def print_log() -> None:
    """Print the library's log, from the level that the environment variable SOFTPROMPTS_LOG names; by default info.

    Raises:
        UserError: there is no such level.
    """
    level = os.environ.get(VARIABLE, "info")
    if level.lower() not in LEVELS:
        raise UserError(f'{VARIABLE}: "{level}"{nearest(level, LEVELS)}')
    logger.setLevel(level.upper())
    consoles = [handler for handler in logger.handlers if isinstance(handler, Console)]
    if not consoles:
        consoles = [Console()]
        logger.addHandler(consoles[0])
        logger.propagate = False  # a handler of the root logger would print each line again
    consoles[0].setLevel(level.upper())
