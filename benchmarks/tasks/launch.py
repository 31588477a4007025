"""Launch a recipe as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def launch(recipe: str, config: str, folder: Path) -> int:
    """Run one recipe with a shipped config into a folder, or go on there; return its exit code."""
    command = [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        # --quiet: a recipe's one-line error is not followed by the launcher's own traceback.
        *("--quiet", "--config_file", "configs/accelerate/cpu.yaml"),
        *(f"recipes/{recipe}.py", "--config", config),
        *("--run.output_dir", str(folder), "--resume"),
    ]
    print(f"\n$ accelerate {' '.join(command[1:])}", flush=True)
    return subprocess.run(command, check=False).returncode
