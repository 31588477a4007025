"""Lock and audit versions, list licences, and check a release; each command has a make target.

    python -m scripts.release lock PACKAGE==VERSION ...
    python -m scripts.release audit
    python -m scripts.release licences PACKAGE==VERSION ...
    python -m scripts.release check

The packages on the command line are the included models, which `make setup` installs in addition to constraints.txt.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from softprompts.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, or 2 after a one-line error on standard error."""
    parser = argparse.ArgumentParser(
        "scripts.release", description="What a release needs; `make help` lists the targets."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("lock", "update requirements/: every file of every version with its SHA-256"),
        ("licences", "update requirements/licences.csv, and look for licences that need an answer"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("models", nargs="*", help="packages in addition to constraints.txt, as NAME==VERSION")
    commands.add_parser("audit", help="ask for known vulnerabilities of every locked version")
    commands.add_parser("check", help="build the package, install it elsewhere, train one step")
    options = vars(parser.parse_args(argv))
    chosen = importlib.import_module(f"scripts.release.{options.pop('command')}")
    try:
        print(chosen.run(**options))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
