"""Compose: join prefixes, or cartridges, that were trained separately, into one adapter.

    python recipes/compose.py --compose.adapters '[runs/one, runs/other]' --compose.output_dir runs/both

For example, cartridges of two texts, so that a question may be about either text (Eyuboglu et al. 2025). The result is
a stock PEFT adapter of the same kind. `recipes/evaluate.py` scores it by `adapter.path`. `recipes/prefix_tuning.py`
trains a composition of prefixes further by `prefix.init_adapter`. Each part was trained without the others, so score
the result before you use it. The exit code is 2, with one line, for an error that you can fix.
"""

from pathlib import Path

import softprompts as sp


def main(compose: sp.ComposeConfig) -> None:
    """Write the composition, and print its number of virtual tokens."""
    count = sp.compose(compose.adapters, Path(compose.output_dir))
    print(f"{count} virtual tokens written to {compose.output_dir}")


if __name__ == "__main__":
    sp.cli(main)
