"""Expand `~` and environment variables in settings that are paths."""

from __future__ import annotations

import sys
from typing import Any

from softprompts.errors import UserError
from softprompts.system.files import expanded

# Folders below that of a run.
ADAPTER, MODEL = "adapter", "model"
# Settings that are, or may be, paths.
PATHS = (
    "adapter.path",
    "compose.adapters",
    "compose.output_dir",
    "ensemble.adapters",
    "export.adapters",
    "export.license_file",
    "export.output_dir",
    "first.path",
    "forget.check",
    "forget.output_dir",
    "forget.rows",
    "forget.run",
    "governance.before",
    "governance.output_dir",
    "governance.plan",
    "governance.readiness",
    "governance.run",
    "launch.records",
    "launch.runs",
    "library.output",
    "library.records",
    "library.runs",
    "memorisation.record",
    "memorisation.runs",
    "model.name_or_path",
    "neighbours.record",
    "prefix.init_adapter",
    "probe.record",
    "probe.run",
    "prompt.init_adapter",
    "prompt.tokenizer_name_or_path",
    "new.data",
    "new.output",
    "outcomes.log",
    "readiness.baseline",
    "readiness.config",
    "readiness.output",
    "readiness.plan",
    "report.ensemble",
    "report.figures",
    "report.neighbours",
    "report.output",
    "report.page",
    "report.records",
    "report.runs",
    "run.output_dir",
    "second.path",
    "serve.adapters",
    "serve.folder",
    "serve.keys_file",
    "serve.split_log",
    "task.metric_data",
    "task.metrics",
    "task.schema",
    "task.test",
    "task.train",
    "task.validation",
    "task.without",
    "training.teacher",
)


def expand_paths(settings: Any) -> None:
    """Expand the paths among parsed settings in place, so that the record has the real paths.

    Raises:
        UserError: a path cannot be expanded, or is not UTF-8 and thus cannot be recorded.
    """
    for key in PATHS:
        value = settings.get(key)
        if isinstance(value, str):
            settings[key] = expanded(key, value)
        elif isinstance(value, list):
            settings[key] = [expanded(key, v) if isinstance(v, str) else v for v in value]
        elif isinstance(value, dict):
            settings[key] = {k: expanded(key, v) if isinstance(v, str) else v for k, v in value.items()}
    for key, value in settings.as_flat().__dict__.items():
        check_utf8(key, str(value))


def check_utf8(key: str, text: str) -> None:
    """Raise `UserError` for bytes that are not text, or for half of a surrogate pair (\\ud83d)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        advice = "" if encoding == "utf-8" else f"; Python reads arguments as {encoding}; set PYTHONUTF8=1 for UTF-8"
        raise UserError(f"{key}: not UTF-8: {text!a}{advice}") from None
