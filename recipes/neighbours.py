"""Neighbours: the tokens of the vocabulary that a soft prompt's virtual tokens lie nearest to.

    python recipes/neighbours.py --adapter.path runs/sentiment/prompt_tuning --neighbours.k 5

For each virtual token the nearest words with their cosine, as Lester et al. (2021) look at prompts in section 7, and
how near these are to each other: a high `cluster` is words of one meaning. Nothing is written to disk. Ends with exit
code 2 and one line for an error that you can mend.
"""

from softprompts.adapters import AdapterConfig, load_adapter
from softprompts.config import ModelConfig, cli
from softprompts.models import load_base_model
from softprompts.prompts.neighbours import NeighboursConfig, nearest_tokens, table_of, virtual_token_embeddings

from accelerate import Accelerator


def main(model: ModelConfig, adapter: AdapterConfig, neighbours: NeighboursConfig) -> None:
    """Print a line for each virtual token, and the words that are near several."""
    base, tokenizer = load_base_model(model, Accelerator().device)
    values = virtual_token_embeddings(load_adapter(base, adapter), adapter.task_id)
    print(table_of(nearest_tokens(values, base, tokenizer, neighbours.k)))


if __name__ == "__main__":
    cli(main)
