"""`softprompts --version`: versions, device and folders, for bug reports."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

import softprompts
from softprompts.system.quiet import quiet_libraries


def main(argv: Sequence[str] | None = None) -> int:
    """Print the versions or the help; return the exit code."""
    parser = argparse.ArgumentParser(
        "softprompts", description="Soft Prompt Recipes. Recipes are scripts: python recipes/prompt_tuning.py --help"
    )
    parser.add_argument("--version", action="store_true", help="versions, device, type and folders, for bug reports")
    if parser.parse_args(argv).version:
        quiet_libraries()
        print(report())
    else:
        parser.print_help()
    return 0


def report() -> str:
    """Return the versions, the device, the dtype that `auto` selects, and the folders of models and data."""
    from softprompts.config.sections import ModelConfig
    from softprompts.data.sources import DATA_DIR
    from softprompts.models.bundled import cache_root
    from softprompts.models.loading import default_device, dtype_of
    from softprompts.runs.environment import PACKAGES, commit

    device = default_device()
    rows = {
        "softprompts": softprompts.__version__,
        "commit": commit() or "unknown",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES if name != "softprompts" and find_spec(name)},
        "device": str(device),
        "dtype of auto": str(dtype_of(ModelConfig(dtype="auto"), device)).removeprefix("torch."),
        "bundled models": str(cache_root()),
        "embedded tasks": str(DATA_DIR),
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


if __name__ == "__main__":
    raise SystemExit(main())
