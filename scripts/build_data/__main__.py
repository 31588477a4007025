"""Build the data sets under `data/` from their public sources.

    python -m scripts.build_data sentiment [--source FILE.tar.gz] [--out data]
    python -m scripts.build_data docstrings [--out data]
    python -m scripts.build_data home_commands [--out data]
    python -m scripts.build_data compliance [--out data]
    python -m scripts.build_data localisation [--out data]
    python -m scripts.build_data analytics [--out data]
    python -m scripts.build_data support [--sources build/sources] [--out data]
    python -m scripts.build_data campaign [--sources build/sources] [--out data]

There is one sub-command per task. Every build is deterministic: the same source gives the same bytes.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from softprompts.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one build; return the exit code: 0, or 2 after a one-line error on standard error."""
    parser = argparse.ArgumentParser(description="Build the data sets under data/ from their public sources.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--out", type=Path, default=Path("data"), help="parent folder (default: data)")
    kept = argparse.ArgumentParser(add_help=False)
    folder = "folder of the downloaded files (default: build/sources); a file that is there is not downloaded again"
    kept.add_argument("--sources", type=Path, default=Path("build/sources"), help=folder)
    tasks = parser.add_subparsers(dest="task", required=True)
    sentiment = tasks.add_parser("sentiment", parents=[common], help="sentences of four domains, positive or negative")
    sentiment.add_argument("--source", type=Path, help="the source distribution (default: download it with pip)")
    tasks.add_parser("docstrings", parents=[common], help="docstrings of four libraries, with their one-line summaries")
    tasks.add_parser("home_commands", parents=[common], help="utterances to a smart home, and the commands as JSON")
    tasks.add_parser("compliance", parents=[common], help="licence texts, and their policy categories")
    tasks.add_parser("localisation", parents=[common], help="texts of interfaces in English and three other languages")
    tasks.add_parser("analytics", parents=[common], help="commands to a smart home as data, and utterances")
    tasks.add_parser("support", parents=[common, kept], help="questions to a bank: queue, priority and answer as JSON")
    tasks.add_parser("campaign", parents=[common, kept], help="products, and lines of copy in two voices")
    options = vars(parser.parse_args(argv))
    # A build may need packages that the others do not need.
    task = importlib.import_module(f"scripts.build_data.{options.pop('task')}.build")
    try:
        print(task.build(**options))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
