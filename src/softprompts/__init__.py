"""Soft Prompt Recipes: the library that the scripts in `recipes/` call."""

import logging

__version__ = "0.1.0"

# On processors with AVX512-BF16, bitsandbytes warns at import about an optional kernel that needs a download.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
