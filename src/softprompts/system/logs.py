"""Print the library's log on a command line.

A program that imports the library decides itself about the log. Without a handler Python prints only warnings.
`print_log` makes it print the same lines as a recipe, for example in a notebook.
"""

from __future__ import annotations

import logging
import os
import sys

from softprompts.errors import UserError, logger, nearest

VARIABLE = "SOFTPROMPTS_LOG"
LEVELS = ("debug", "info", "warning", "error")


class Console(logging.Handler):
    """Prints a line per record: INFO without its level on standard output, others with their level on standard error.

    It uses the present streams. The caller gets an error in writing, such as a closed pipe.
    """

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno < logging.INFO:
            text = f"{record.levelname} {record.name}: {text}"
        elif record.levelno > logging.INFO:
            text = f"{record.levelname.lower()}: {text}"
        plain = record.levelno == logging.INFO and not getattr(record, "to_stderr", False)
        stream = sys.stdout if plain else sys.stderr
        # With a progress bar, the line is above the bar and not inside it.
        if tqdm := sys.modules.get("tqdm"):
            tqdm.tqdm.write(text, file=stream)
        else:
            stream.write(f"{text}\n")
        stream.flush()


def print_log() -> None:
    """Print the library's log, from the level that the environment variable SOFTPROMPTS_LOG names; by default info.

    Raises:
        UserError: the level is unknown.
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
