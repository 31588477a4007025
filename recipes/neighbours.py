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

from softprompts.adapters.loading import AdapterConfig, load_adapter
from softprompts.config.cli import cli
from softprompts.config.sections import ModelConfig
from softprompts.evaluation.neighbours import (
    NeighboursConfig,
    nearest_tokens,
    random_vectors,
    table_of,
    virtual_token_embeddings,
)
from softprompts.models.loading import load_base_model
from softprompts.runs.record import environment
from softprompts.system.files import one_line, write_atomically

from accelerate import Accelerator


def main(model: ModelConfig, adapter: AdapterConfig, neighbours: NeighboursConfig) -> None:
    """Print a line for each virtual token, and the words that are near several."""
    base, tokenizer = load_base_model(model, Accelerator().device)
    values = virtual_token_embeddings(load_adapter(base, adapter), adapter.task_id)
    found = nearest_tokens(values, base, tokenizer, neighbours.k)
    print(table_of(found))
    if neighbours.record:
        chance = nearest_tokens(random_vectors(base, tokenizer, len(found)), base, tokenizer, neighbours.k)
        record = {
            "model": model.name_or_path,
            "adapter": adapter.path,
            "k": neighbours.k,
            "learned": list(map(asdict, found)),
            "random": list(map(asdict, chance)),
            "environment": environment(),
        }
        file = Path(neighbours.record)
        with one_line(f"neighbours.record: {file.parent}"):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    cli(main)
