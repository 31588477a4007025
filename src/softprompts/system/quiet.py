"""Silence remarks of libraries that no user can act on, and let the libraries find one another."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path


def quiet_libraries() -> None:
    """Silence remarks that need no answer."""
    # On processors with AVX512-BF16, bitsandbytes warns at import about an optional kernel that needs a download.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # In 8 bits it says at every matrix product of every step that inputs are cast to float16, where they were not.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # PEFT asks transformers for a property that has a new name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    # Accelerate hands this on by its old name only; with the default, buffers would go from process to process.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    # PEFT's LoraConfig says so whenever it is made; no setting of ours leads there.
    warnings.filterwarnings("ignore", message="`loftq_config` specified but will be ignored", category=UserWarning)
    # Generation hands them to PEFT's forward, which counts for itself: of rows of one length, the same numbers.
    warnings.filterwarnings("ignore", message="Position ids are not supported", category=UserWarning)
    # It says at import that it keeps its cache elsewhere, if the home folder cannot be written.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def look_in_the_scripts_folder_last() -> None:
    """Let `import evaluate` find the library beside `recipes/evaluate.py`: Python looks in a script's folder first."""
    if sys.path[0] and Path(sys.path[0], "evaluate.py").is_file():
        sys.path.append(sys.path.pop(0))
