"""Compose: prefixes, or cartridges, that were trained apart become one, with the keys and values of all.

    python recipes/compose.py --compose.adapters '[runs/one, runs/other]' --compose.output_dir runs/both

Cartridges of two texts, say, so that a question may be about either (Eyuboglu et al. 2025). What is written is a stock
PEFT adapter of the same kind. `recipes/evaluate.py` scores it, named as `adapter.path`. `recipes/prefix_tuning.py`
trains a composition of prefixes further, named as `prefix.init_adapter`. Each part was trained without the others: see
what the whole is worth before you use it. Ends with exit code 2 and one line for an error that you can mend.
"""

from pathlib import Path

import softprompts as sp


def main(compose: sp.ComposeConfig) -> None:
    """Write the composition, and print how long it is."""
    count = sp.compose(compose.adapters, Path(compose.output_dir))
    print(f"{count} virtual tokens written to {compose.output_dir}")


if __name__ == "__main__":
    sp.cli(main)
