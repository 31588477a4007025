"""Run a recipe that gets SIGTERM after a step: `stopped.py STEP recipes/NAME.py WORD...`."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

from softprompts.training import log

if __name__ == "__main__":
    step, sys.argv = int(sys.argv[1]), sys.argv[2:]
    own = log.TrainingLog.update

    def update(self: Any, candidates: Any) -> None:
        """Show a step, and stop after it."""
        own(self, candidates)
        if candidates[0].progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    log.TrainingLog.update = update  # type: ignore[method-assign]
    runpy.run_path(sys.argv[0], run_name="__main__")
