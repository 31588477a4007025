"""Silence warnings of libraries that no user can act on, and let the libraries find one another."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path


def quiet_libraries() -> None:
    """Silence warnings that no user can act on, and leave out a slow import that nobody needs."""
    # On processors with AVX512-BF16, bitsandbytes warns at import about an optional kernel that needs a download.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # In 8 bits it warns at every matrix product that inputs which are not float16 are cast to it.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # PEFT uses a transformers property that has a new name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    # Accelerate passes this only by its old name; by default, processes would send their buffers to one another.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    # PEFT's LoraConfig warns at every creation, although none of our settings sets it.
    warnings.filterwarnings("ignore", message="`loftq_config` specified but will be ignored", category=UserWarning)
    # Generation passes them to PEFT's forward, which counts itself; for rows of one length the numbers are the same.
    warnings.filterwarnings("ignore", message="Position ids are not supported", category=UserWarning)
    # It warns at import that its cache is in another folder, if the home folder cannot be written.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # If this package is there, jsonschema imports it, which takes a second. It checks addresses, and no schema of ours
    # has that checked (softprompts.tasks.schemas.FORMATS).
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type] # None: as if it were not installed


def look_in_the_scripts_folder_last() -> None:
    """Let `import evaluate` find the library, not `recipes/evaluate.py`: Python searches a script's folder first."""
    if sys.path[0] and Path(sys.path[0], "evaluate.py").is_file():
        sys.path.append(sys.path.pop(0))
