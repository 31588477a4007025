"""Find the nearest neighbours of virtual tokens in the vocabulary (Lester et al. 2021, section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from softprompts.errors import UserError
from softprompts.methods.attach import normal_values, words_of

import torch
from peft import MultitaskPromptTuningConfig, PeftModel
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Neighbours:
    """The k nearest tokens of one virtual token, the nearest first.

    similarities: cosines with the virtual token; cluster: mean cosine between the neighbours, 1 for a single neighbour.
    Tokens with the same meaning, or forms of one word, make it high, and so do rare tokens. Its cosines are taken after
    subtracting the vocabulary's mean, which all embeddings share and which makes any two of them similar (Mu and
    Viswanath 2018, "All-but-the-top").
    """

    tokens: list[str]
    similarities: list[float]
    cluster: float


def virtual_token_embeddings(model: Any, task: int = 0) -> torch.Tensor:
    """Return the embeddings of a model's virtual tokens, float32 (virtual tokens, hidden size).

    Args:
        model: a base model, or a PEFT model over one.
        task: number of the task, for multitask prompt tuning.

    Raises:
        UserError: there is no adapter, or it has no such embeddings.
    """
    if not isinstance(model, PeftModel):
        raise UserError("adapter.path: expected an adapter with virtual tokens")
    config = model.active_peft_config
    tasks = torch.tensor([task], device=model.device) if isinstance(config, MultitaskPromptTuningConfig) else None
    with torch.no_grad():
        prompt = model.get_prompt(1, tasks) if config.is_prompt_learning else None
    if not isinstance(prompt, torch.Tensor):  # keys and values, or no prompt at all
        raise UserError(
            f"adapter.path: an adapter of type {getattr(config.peft_type, 'value', config.peft_type)} has no "
            "embeddings of virtual tokens; expected prompt tuning, P-tuning or multitask prompt tuning"
        )
    return prompt[0].float()


def random_vectors(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, seed: int = 0
) -> torch.Tensor:
    """Return random vectors with the mean and standard deviation of a base model's embeddings in each dimension.

    Lester et al. (2021), section 7, compare the neighbours of learned tokens with those of such vectors.

    Args:
        base: the base model.
        tokenizer: the base model's tokenizer.
        count: number of vectors.
        seed: seed of the sampling.

    Returns:
        float32 (count, hidden size).
    """
    words = words_of(base, tokenizer)
    return normal_values(words, count, torch.Generator(words.device).manual_seed(seed))


def nearest_tokens(
    values: torch.Tensor, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, k: int
) -> list[Neighbours]:
    """Return the neighbours of each virtual token by cosine, as in section 7 of Lester et al. (2021).

    Args:
        values: embeddings of the virtual tokens, (P, H).
        base: model whose input embeddings, (V, H), are searched.
        tokenizer: the base model's tokenizer.
        k: number of neighbours.
    """
    embeddings = words_of(base, tokenizer)
    words, middle = functional.normalize(embeddings, dim=1), embeddings.mean(dim=0)
    cosines = functional.normalize(values.to(words.device), dim=1) @ words.T
    near, ids = cosines.topk(min(k, len(words)), dim=1)
    made = []
    for row, similarities in zip(ids, near, strict=True):
        apart = functional.normalize(embeddings[row] - middle, dim=1)
        between = apart @ apart.T
        pairs = len(row) * (len(row) - 1)
        cluster = (between.sum() - between.trace()).item() / pairs if pairs else 1.0
        made.append(Neighbours([_shown(tokenizer, i) for i in row.tolist()], similarities.tolist(), cluster))
    return made


def _shown(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return a token as text, or by its name if it is a part of a character, because such parts look the same."""
    text = str(tokenizer.decode([token]))
    return str(tokenizer.convert_ids_to_tokens(token)) if "\N{REPLACEMENT CHARACTER}" in text else text


def repeated(found: Sequence[Neighbours]) -> dict[str, list[int]]:
    """Return the words near several virtual tokens, with the numbers of these from 1, the most frequent word first.

    Case and surrounding spaces do not count. Lester et al. (2021), section 7, find such words in long prompts. They
    suggest that these prompts have spare capacity, or that training spreads information over several positions.
    """
    places: dict[str, list[int]] = {}
    for number, one in enumerate(found, start=1):
        for word in dict.fromkeys(token.strip().casefold() for token in one.tokens):
            if word:
                places.setdefault(word, []).append(number)
    several = {word: numbers for word, numbers in places.items() if len(numbers) > 1}
    return dict(sorted(several.items(), key=lambda item: -len(item[1])))


def table_of(found: Sequence[Neighbours]) -> str:
    """Return the neighbours as lines of text, one per virtual token, and the repeated words below them."""
    lines = [f"{'token':>5}  {'cluster':>7}  nearest in the vocabulary, with the cosine"]
    for number, one in enumerate(found, start=1):
        near = "  ".join(f"{token!r} {cosine:.2f}" for token, cosine in zip(one.tokens, one.similarities, strict=True))
        lines.append(f"{number:>5}  {one.cluster:>7.2f}  {near}")
    words = [f"  {word}: {', '.join(map(str, numbers))}" for word, numbers in repeated(found).items()]
    return "\n".join([*lines, *(["near several virtual tokens:", *words] if words else [])])
