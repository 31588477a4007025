"""Soft Prompt Recipes: the library that the scripts in `recipes/` call.

`__init__.pyi` lists `softprompts.train` and the other public names. Each is imported from its module at its first use,
because PEFT, transformers and PyTorch take seconds to import. A misspelt key is thus reported at once.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
