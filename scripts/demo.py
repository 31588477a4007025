"""The demo: a written prompt and a soft prompt on the embedded sentiment task, side by side.

Each recipe runs as a user would run it. A part that is finished is not run again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from softprompts.reports.demo import report


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


def main() -> None:
    """Run both recipes and print what they reached."""
    folders = []
    for recipe in ("hard_prompt", "prompt_tuning"):
        folders.append(Path("runs/sentiment") / recipe)
        code = launch(recipe, f"configs/sentiment/{recipe}.yaml", folders[-1])
        if code:
            sys.exit(code)
    print(f"\n{report(*folders)}")


if __name__ == "__main__":
    main()
