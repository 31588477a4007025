"""Check the settings of a run before rows are read and heavy libraries are imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from softprompts.config import cli as config_cli
from softprompts.config.sections import ModelConfig, RunConfig
from softprompts.errors import UserError
from softprompts.models.paths import check_model
from softprompts.runs.folders import RECIPE, finished, folder_of, is_finished, plain, record_of
from softprompts.system.files import one_line


def cli(main: Callable[..., None], **others: Callable[..., None]) -> None:
    """Run a recipe's `main` from the command line, as `softprompts.config.cli.cli` does, after `check_settings`."""
    config_cli.cli(main, check_settings, others)


def check_settings(arguments: dict[str, Any]) -> None:
    """Refuse settings that are wrong for any rows and models. Nothing is written.

    Args:
        arguments: the recipe's dataclass arguments by name.

    Raises:
        UserError: the base model does not exist; a run can neither start nor continue in the folder.
        RunFinished: the run to be resumed is already finished.
    """
    for value in arguments.values():
        if isinstance(value, ModelConfig):
            check_model(value)
    run = arguments.get("run")
    # With several processes, one claims the folder for all in `start_run`, because each sees the others' files.
    if isinstance(run, RunConfig) and os.environ.get("WORLD_SIZE", "1") == "1":
        _check_folder(run, arguments)


def _check_folder(run: RunConfig, arguments: dict[str, Any]) -> None:
    folder = folder_of(run)
    with one_line(f"run.output_dir: {folder}"):
        try:
            before = record_of(folder) or {}
        except UserError:  # `is_finished` reports it
            before = {}
        # The recipe's name and full record are known only when it starts.
        record = {name: plain(value) for name, value in arguments.items() if name in before}
        if is_finished(folder, {RECIPE: before.get(RECIPE)} | record, arguments):
            raise finished(folder)
