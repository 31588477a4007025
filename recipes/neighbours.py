"""Neighbours: show the tokens of the vocabulary that are nearest to a soft prompt's virtual tokens.

    python recipes/neighbours.py --adapter.path runs/sentiment/prompt_tuning --neighbours.k 5

For each virtual token it shows the nearest words with their cosine, as in section 7 of Lester et al. (2021), and the
similarity of these words to each other (`cluster`). Words with one meaning make `cluster` high, and so do rare words.
Nothing is written to disk without `--neighbours.record FILE.json`. The exit code is 2, with one line, for an error that
you can fix.
"""

import json
from dataclasses import asdict
from pathlib import Path

import softprompts as sp


def main(model: sp.ModelConfig, adapter: sp.AdapterConfig, neighbours: sp.NeighboursConfig) -> None:
    """Print a line for each virtual token, and the words that are near several of them."""
    base, tokenizer = sp.load_base_model(model, sp.default_device())
    values = sp.virtual_token_embeddings(sp.load_adapter(base, adapter), adapter.task_id)
    found = sp.nearest_tokens(values, base, tokenizer, neighbours.k)
    print(sp.table_of(found))
    if neighbours.record:
        chance = sp.nearest_tokens(sp.random_vectors(base, tokenizer, len(found)), base, tokenizer, neighbours.k)
        record = {
            "model": model.name_or_path,
            "adapter": adapter.path,
            "k": neighbours.k,
            "learned": list(map(asdict, found)),
            "random": list(map(asdict, chance)),
            "environment": sp.environment(),
        }
        file = Path(neighbours.record)
        with sp.one_line(f"neighbours.record: {file.parent}"):
            file.parent.mkdir(parents=True, exist_ok=True)
        sp.write_atomically(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sp.cli(main)
