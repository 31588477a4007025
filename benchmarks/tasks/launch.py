"""Launch a recipe as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def launch(recipe: str, config: str, folder: Path) -> int:
    """Run a recipe with a shipped config in a folder, or continue its run; return the exit code."""
    command = [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        # --quiet, so that the launcher's own traceback does not follow a recipe's one-line error.
        *("--quiet", "--config_file", "configs/accelerate/cpu.yaml"),
        *(f"recipes/{recipe}.py", "--config", config),
        *("--run.output_dir", str(folder), "--resume"),
    ]
    print(f"\n$ accelerate {' '.join(command[1:])}", flush=True)
    return subprocess.run(command, check=False).returncode
