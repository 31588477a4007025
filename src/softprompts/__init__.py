"""Soft Prompt Recipes: the library that the scripts in `recipes/` call.

`softprompts.train` and the other public names are listed in `__init__.pyi`. Each is imported from its module when it is
first used: PEFT, transformers and PyTorch take seconds, which a misspelt key should not.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
