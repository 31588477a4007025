"""Neighbours: the tokens of the vocabulary that a soft prompt's virtual tokens lie nearest to.

    python recipes/neighbours.py --adapter.path runs/sentiment/prompt_tuning --neighbours.k 5

For each virtual token the nearest words with their cosine, as Lester et al. (2021) look at prompts in section 7, and
how near these are to each other: words of one meaning make `cluster` high, and so do rare ones, which lie together.
Nothing is written to disk, unless you name a file, as `--neighbours.record FILE.json`. Ends with exit
code 2 and one line for an error that you can mend.
"""

import json
from dataclasses import asdict
from pathlib import Path

import softprompts as sp


def main(model: sp.ModelConfig, adapter: sp.AdapterConfig, neighbours: sp.NeighboursConfig) -> None:
    """Print a line for each virtual token, and the words that are near several."""
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
