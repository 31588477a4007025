"""Soft Prompt Recipes: the library that the scripts in `recipes/` call."""

import logging
import sys
import warnings
from pathlib import Path

__version__ = "0.1.0"

# Python looks for modules in the script's folder first: next to recipes/evaluate.py, `import evaluate` would find that.
if sys.path[0] and Path(sys.path[0], "evaluate.py").is_file():
    sys.path.append(sys.path.pop(0))

# On processors with AVX512-BF16, bitsandbytes warns at import about an optional kernel that needs a download.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# PEFT asks transformers for a property that has a new name; nothing a user could mend.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
# Accelerate hands this on by its old name only; with the default, buffers would go from process to process each step.
warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
# LoRA's settings are parsed into PEFT's classes, the empty one of LoftQ too; `weights.add_lora` refuses its use.
warnings.filterwarnings("ignore", message="`loftq_config` specified but will be ignored", category=UserWarning)
# In 8 bits it says at every matrix product of every step that inputs are cast to float16, where they were not.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
# It says at import that it keeps its cache elsewhere, if the home folder cannot be written.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
