"""The demo: a written prompt and a soft prompt on the embedded sentiment task, side by side.

Each recipe runs as a user would run it. A part that is finished is not run again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from softprompts.reports.demo import report

OUTPUT = Path("runs/demo")


def launch(recipe: str) -> Path:
    """Run one recipe with its shipped sentiment config and return its output folder; end with its exit code."""
    folder = OUTPUT / recipe
    command = [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        # --quiet: a recipe's one-line error is not followed by the launcher's own traceback.
        *("--quiet", "--config_file", "configs/accelerate/cpu.yaml"),
        *(f"recipes/{recipe}.py", "--config", f"configs/sentiment/{recipe}.yaml"),
        *("--run.output_dir", str(folder), "--resume"),
    ]
    print(f"\n$ accelerate {' '.join(command[1:])}", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)
    return folder


def main() -> None:
    """Run both recipes and print what they reached."""
    hard, soft = launch("hard_prompt"), launch("prompt_tuning")
    print(f"\n{report(hard, soft)}")


if __name__ == "__main__":
    main()
