"""Initial values of a soft prompt, and attaching it to the frozen base model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from softprompts.config.methods import PrefixConfig, PromptConfig
from softprompts.errors import UserError
from softprompts.models.identity.facts import facts_of
from softprompts.models.loading import Kind, kind_of, max_positions
from softprompts.models.peft_compat import encoder_of, peft_model

import torch
from peft import PeftConfig, PeftModel, PromptLearningConfig, TaskType
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

TASK_TYPES: dict[Kind, TaskType] = {
    "decoder": TaskType.CAUSAL_LM,
    "encoder-decoder": TaskType.SEQ_2_SEQ_LM,
    "encoder": TaskType.SEQ_CLS,
}


FROM_TEXT = ("outputs", "demonstrations")  # ways to start from a text that the task gives
FREQUENT = 5000  # tokens that `frequent` draws from: Lester et al. (2021), section 3.2


def attach(base: PreTrainedModel, config: PromptLearningConfig, *, section: str, seed: int | None) -> PeftModel:
    """Return a PEFT model over `base` with the soft prompt that `config` describes; `section` holds it in the YAML.

    Raises:
        UserError: no virtual tokens, or more than the model has positions; what PEFT refuses.
    """
    count = config.num_virtual_tokens
    if not isinstance(count, int) or count < 1:
        raise UserError(f"{section}.num_virtual_tokens: expected a number above 0, found {count}")
    positions = max_positions(base)
    if positions is not None and count >= positions:
        raise UserError(
            f"{section}.num_virtual_tokens: {count} leave no room in the {positions} positions of the model"
        )
    plain = for_base(config, base)
    plain.num_transformer_submodules = 1  # PEFT would train a second half for a T5's decoder and never read it
    if seed is not None:
        torch.manual_seed(seed)
    try:
        return peft_model(base, plain)
    except ValueError as error:
        raise UserError(f"{section}: {' '.join(str(error).split())}") from None


def as_peft(config: Any, kind: type[PeftConfig], **changes: Any) -> Any:
    """Return the config of PEFT's that has the values of a section of settings, as far as PEFT has fields for them."""
    known = {f.name for f in fields(kind) if f.init}
    return kind(**{f.name: getattr(config, f.name) for f in fields(config) if f.name in known} | changes)


def for_base(config: Any, base: PreTrainedModel) -> Any:
    """Return a copy of a PEFT config with the kind of model, whose new classifier trains and is saved as well."""
    made = copy.copy(config)
    made.task_type = TASK_TYPES[kind_of(base.config)]
    if parts := facts_of(base).new_parts:
        made.modules_to_save = [*(made.modules_to_save or []), *parts]
    return made


def check_loaded(config: PromptConfig | PrefixConfig, start: torch.Tensor | None) -> None:
    """Raise `UserError` if a config names an adapter to begin with, and the recipe has not read it."""
    if config.init_adapter is not None and start is None:
        section = "prompt" if isinstance(config, PromptConfig) else "prefix"
        raise UserError(f"{section}.init_adapter: this recipe begins with no other adapter; set it to null")


def set_start(model: PeftModel, values: torch.Tensor | None, key: str = "") -> None:
    """Put initial values into the embedding of a soft prompt; None leaves what PEFT has drawn.

    Raises:
        UserError: they are of another shape, as only those of an adapter can be; `key` is the setting that named it.
    """
    if values is None:
        return
    weight = encoder_of(model).embedding.weight
    if values.shape != weight.shape:
        found, own = (" x ".join(map(str, shape)) for shape in (values.shape, weight.shape))
        raise UserError(f"{key}: holds {found} numbers, and what is to begin with them has {own}")
    with torch.no_grad():
        weight.copy_(values)


def initial_values(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    *,
    start: str,
    text: str | None,
    labels: Sequence[str] | None = None,
    fill: str = "repeat",
) -> torch.Tensor | None:
    """Return float32 values (count, hidden size), or None for PEFT's own random ones, N(0, 1).

    Args:
        base: whose input embeddings they are.
        tokenizer: of the base model.
        count: number of virtual tokens.
        start: TEXT, SAMPLE_VOCAB or RANDOM, or a way of `PromptConfig`.
        text: for TEXT, outputs and demonstrations.
        labels: for labels.
        fill: see `text_ids`.
    """
    weight = base.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    if start == "uniform":
        return torch.rand(count, weight.shape[1]) - 0.5
    if start == "normal":
        return normal_values(words_of(base, tokenizer), count)
    if start == "labels":
        named = label_values(weight, tokenizer, labels or ())[:count]
        return torch.cat([named, _rows(weight, sampled_ids(tokenizer, count - len(named), FREQUENT, len(weight)))])
    if start in ("TEXT", *FROM_TEXT):
        key = "prompt.prompt_tuning_init_text: TEXT" if start == "TEXT" else f"prompt.init_from: {start}"
        ids = text_ids(tokenizer, text, count, key, fill=fill, at_end=start == "demonstrations", vocabulary=len(weight))
        return _rows(weight, ids)
    if start in ("SAMPLE_VOCAB", "frequent"):
        return _rows(weight, sampled_ids(tokenizer, count, FREQUENT if start == "frequent" else None, len(weight)))
    return None


def _rows(weight: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    if len(ids) and max(ids) >= len(weight):
        raise UserError(
            f"prompt: token {max(ids)} of the initial text is beyond the {len(weight)} embeddings of the model"
        )
    return weight[torch.tensor(ids, dtype=torch.long, device=weight.device)].detach().float()


def sampled_ids(
    tokenizer: PreTrainedTokenizerBase, count: int, most: int | None = None, rows: int | None = None
) -> list[int]:
    """Draw `count` token ids below `rows`, no special ones; with `most` from the so many most frequent tokens.

    These are the lowest ids. Lester et al. (2021), section 3.2, read frequency off the vocabulary's order, too:
    SentencePiece sorts tokens by their likelihood, and byte pair encoding numbers them as it merges them, the most
    frequent pair first. Counts in a task's own rows would know the words of one domain only. What the order does not
    say is how frequent the single bytes are that a byte-level vocabulary begins with, 256 of 5,000.
    """
    # SmolLM2's vocabulary begins with <repo_name> and the like: added to it by hand, whatever their place.
    added = tokenizer.added_tokens_decoder if most else ()
    # A tokenizer may know more tokens than the model has embeddings.
    known = len(tokenizer) if rows is None else min(rows, len(tokenizer))
    ordinary = sorted(set(range(known)).difference(tokenizer.all_special_ids, added))[:most]
    return [ordinary[i] for i in torch.randint(0, len(ordinary), (count,)).tolist()]


def label_values(weight: torch.Tensor, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> torch.Tensor:
    """Return the mean embedding of each class label's tokens, float32 (labels, hidden size), from those in `weight`.

    Lester et al. (2021), section 3.2: a label of several tokens becomes one virtual token.

    Raises:
        UserError: no labels, or one that tokenizes to nothing.
    """
    if not labels:
        raise UserError("prompt.init_from: labels needs a task with choices; name others in prompt.init_labels")
    means = []
    for label in labels:
        ids = tokenizer(label, add_special_tokens=False).input_ids
        if not ids:
            raise UserError(f"prompt.init_labels: {label!r} tokenizes to nothing")
        means.append(_rows(weight, ids).mean(0))
    return torch.stack(means)


def words_of(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Return the embeddings of a vocabulary, float32 (V, H); those after the tokenizer's last token are padding."""
    weight = base.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight[: len(tokenizer)].detach().float()


def normal_values(like: torch.Tensor, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw values (count, W) from a normal distribution with the mean and deviation of each column of others (N, W).

    Args:
        like: the others.
        count: how many rows.
        generator: of the draw, which takes place on its device; by default the one of the CPU.
    """
    device = generator.device if generator else torch.device("cpu")
    drawn = torch.randn(count, like.shape[1], generator=generator, device=device)
    return like.mean(dim=0) + drawn.to(like.device) * like.std(dim=0)


def text_ids(
    tokenizer: PreTrainedTokenizerBase,
    text: str | None,
    count: int,
    key: str,
    *,
    fill: str = "repeat",
    at_end: bool = False,
    vocabulary: int | None = None,
) -> list[int]:
    """Return the token ids of a text without special tokens, cut or filled up to `count`.

    Args:
        tokenizer: of the base model.
        text: the text.
        count: number of virtual tokens.
        key: the setting that asked for them.
        fill: `repeat` fills up with the text itself, `frequent` with drawn frequent tokens.
        at_end: keep the end of the text, and put what fills up before it.
        vocabulary: tokens that the base model has embeddings of, to draw from.

    Raises:
        UserError: there are none.
    """
    ids = tokenizer(text or "", add_special_tokens=False).input_ids
    if not ids:
        raise UserError(f"{key} needs a text that tokenizes to something")
    if fill == "repeat":
        return [ids[i % len(ids)] for i in (range(-count, 0) if at_end else range(count))]
    kept = ids[-count:] if at_end else ids[:count]
    drawn = sampled_ids(tokenizer, count - len(kept), FREQUENT, vocabulary)
    return [*drawn, *kept] if at_end else [*kept, *drawn]
