"""Make the initial values of a soft prompt, and attach it to the frozen base model."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from typing import Any, cast

from softprompts.config.methods import PrefixConfig, PromptConfig
from softprompts.errors import UserError, notice, warn
from softprompts.models.identity.facts import facts_of
from softprompts.models.loading import Kind, embedding_scale, kind_of, max_positions
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


FROM_TEXT = ("outputs", "demonstrations")  # initial values from a text of the task
FREQUENT = 5000  # tokens that `frequent` samples from: Lester et al. (2021), section 3.2


def attach(base: PreTrainedModel, config: PromptLearningConfig, *, section: str, seed: int | None) -> PeftModel:
    """Return a PEFT model over `base` with the soft prompt of `config`; `section` is its section in the YAML.

    Raises:
        UserError: there are no virtual tokens, or more than the model's positions; PEFT refuses the config.
    """
    count = config.num_virtual_tokens
    if not isinstance(count, int) or count < 1:
        raise UserError(f"{section}.num_virtual_tokens: expected a number above 0, found {count}")
    positions = max_positions(base)
    if positions is not None and count >= positions:
        raise UserError(
            f"{section}.num_virtual_tokens: {count} virtual tokens leave no room in the model's {positions} positions"
        )
    plain = for_base(config, base)
    plain.num_transformer_submodules = 1  # PEFT would train a second half for T5's decoder, and never use it
    if seed is not None:
        torch.manual_seed(seed)
    with refused_by_peft(section):
        return peft_model(base, plain)


@contextmanager
def refused_by_peft(section: str) -> Iterator[None]:
    """Within this context, an error by which PEFT refuses the settings of a section becomes a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, re.error) as error:
        raise UserError(f"{section}: {' '.join(str(error).split())}") from None


def as_peft(config: Any, kind: type[PeftConfig], **changes: Any) -> Any:
    """Return a PEFT config with the values of a section of settings, for the fields that PEFT has."""
    known = {f.name for f in fields(kind) if f.init}
    return kind(**{f.name: getattr(config, f.name) for f in fields(config) if f.name in known} | changes)


def for_base(config: Any, base: PreTrainedModel) -> Any:
    """Return a copy of a PEFT config with the model's kind of task; a new classifier is trained and saved."""
    made = copy.copy(config)
    made.task_type = TASK_TYPES[kind_of(base.config)]
    if parts := facts_of(base).new_parts:
        made.modules_to_save = [*(made.modules_to_save or []), *parts]
    return made


def check_loaded(config: PromptConfig | PrefixConfig, start: torch.Tensor | None) -> None:
    """Raise `UserError` if a config names an adapter for the initial values, and the recipe has not read it."""
    if config.init_adapter is not None and start is None:
        section = "prompt" if isinstance(config, PromptConfig) else "prefix"
        raise UserError(f"{section}.init_adapter: this recipe does not start from an adapter; set it to null")


@cache  # once, and not for each candidate of a sweep
def tell_of_unread_text(start: str) -> None:
    """Log that the text of a config is not read, because the initial values come from `start`."""
    notice(f"prompt.prompt_tuning_init_text: not read, because the initial values come from {start}")


def set_start(model: PeftModel, values: torch.Tensor | None, key: str = "") -> None:
    """Put initial values into the embedding of a soft prompt; None keeps PEFT's random values.

    Raises:
        UserError: the shapes differ, which only values of an adapter can; `key` is the setting that named it.
    """
    if values is None:
        return
    weight = encoder_of(model).embedding.weight
    if values.shape != weight.shape:
        found, own = (" x ".join(map(str, shape)) for shape in (values.shape, weight.shape))
        raise UserError(f"{key}: has {found} numbers, but the new one has {own}")
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
        base: the base model with the input embeddings.
        tokenizer: the base model's tokenizer.
        count: number of virtual tokens.
        start: TEXT, SAMPLE_VOCAB or RANDOM, or a value of `init_from` in `PromptConfig`.
        text: the text for TEXT, outputs and demonstrations.
        labels: the labels for labels.
        fill: see `text_ids`.
    """
    weight = base.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    rows = len(weight)
    if start == "uniform":
        return torch.rand(count, weight.shape[1]) - 0.5
    if start == "normal":
        return normal_values(words_of(base, tokenizer), count)
    if start == "labels":
        if len(labels or ()) > count:
            warn(
                f"prompt.init_from: labels: {len(labels or ())} labels do not fit into {count} virtual tokens; the "
                f"soft prompt starts from the first {count}"
            )
        named = label_values(base, tokenizer, labels or ())[:count]
        return torch.cat([named, _embedded(base, sampled_ids(tokenizer, count - len(named), FREQUENT, rows))])
    if start in ("TEXT", *FROM_TEXT):
        key = "prompt.prompt_tuning_init_text: TEXT" if start == "TEXT" else f"prompt.init_from: {start}"
        ids = text_ids(tokenizer, text, count, key, fill=fill, at_end=start == "demonstrations", vocabulary=rows)
        return _embedded(base, ids)
    if start in ("SAMPLE_VOCAB", "frequent"):
        return _embedded(base, sampled_ids(tokenizer, count, FREQUENT if start == "frequent" else None, rows))
    return None


@torch.no_grad()
def _embedded(base: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """Return tokens as the first layer reads them, float32 (tokens, H): some embedding layers, as Gemma's, scale."""
    table: Any = base.get_input_embeddings()
    if unknown := unknown_token(base, ids):
        raise UserError(f"prompt: {unknown}")
    found: torch.Tensor = table(torch.tensor(ids, dtype=torch.long, device=table.weight.device))
    return found.float()


def unknown_token(base: PreTrainedModel, ids: Sequence[int]) -> str | None:
    """Return the reason why the model cannot read the tokens of a text: one has no embedding. None if all have one."""
    rows = len(cast(torch.Tensor, base.get_input_embeddings().weight))
    if not len(ids) or max(ids) < rows:
        return None
    return f"token {max(ids)} of the initial text is beyond the {rows} embeddings of the model"


def sampled_ids(
    tokenizer: PreTrainedTokenizerBase, count: int, most: int | None = None, rows: int | None = None
) -> list[int]:
    """Sample `count` token ids below `rows` without special tokens; with `most`, from the `most` frequent ones.

    Frequent tokens are those with the lowest ids. Lester et al. (2021), section 3.2, also read frequency from the order
    of the vocabulary: SentencePiece sorts tokens by likelihood, and byte pair encoding numbers them in the order of
    merges, the most frequent pair first. Counts in a task's own rows would cover the words of one domain only. The
    order does not show the frequency of single bytes, with which a byte-level vocabulary begins (256 of 5,000).
    """
    # SmolLM2's vocabulary begins with tokens such as <repo_name>, which were added by hand.
    added = tokenizer.added_tokens_decoder if most else ()
    # A tokenizer may know more tokens than the model has embeddings.
    known = len(tokenizer) if rows is None else min(rows, len(tokenizer))
    ordinary = sorted(set(range(known)).difference(tokenizer.all_special_ids, added))[:most]
    return [ordinary[i] for i in torch.randint(0, len(ordinary), (count,)).tolist()]


def label_values(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> torch.Tensor:
    """Return the mean embedding of each class label's tokens, float32 (labels, hidden size).

    Lester et al. (2021), section 3.2: a label of several tokens becomes one virtual token.

    Raises:
        UserError: there are no labels, or one has no tokens.
    """
    if not labels:
        raise UserError("prompt.init_from: labels requires a task with choices; otherwise set prompt.init_labels")
    means = []
    for label in labels:
        ids = tokenizer(label, add_special_tokens=False).input_ids
        if not ids:
            raise UserError(f"prompt.init_labels: {label!r} tokenizes to nothing")
        means.append(_embedded(base, ids).mean(0))
    return torch.stack(means)


def words_of(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Return the embeddings of a vocabulary, float32 (V, H), as the first layer reads them.

    Rows after the tokenizer's last token are padding.
    """
    table: Any = base.get_input_embeddings()
    words: torch.Tensor = table.weight[: len(tokenizer)].detach().float()
    scale = embedding_scale(table)
    return words if scale == 1 else words * scale


def normal_values(like: torch.Tensor, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Sample values (count, W) from a normal distribution with the mean and deviation of each column of `like`.

    Args:
        like: values (N, W).
        count: number of rows.
        generator: generator, whose device is used; by default the CPU's.
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
        tokenizer: the base model's tokenizer.
        text: the text.
        count: number of virtual tokens.
        key: the setting with the text, for messages.
        fill: `repeat` repeats the text, `frequent` samples frequent tokens.
        at_end: keep the end of the text, and put the filling before it.
        vocabulary: number of tokens with embeddings in the base model, for sampling.

    Raises:
        UserError: the text has no tokens.
    """
    ids = tokenizer(text or "", add_special_tokens=False).input_ids
    if not ids:
        raise UserError(f"{key} requires a text that has tokens")
    if fill == "repeat":
        return [ids[i % len(ids)] for i in (range(-count, 0) if at_end else range(count))]
    kept = ids[-count:] if at_end else ids[:count]
    drawn = sampled_ids(tokenizer, count - len(kept), FREQUENT, vocabulary)
    return [*drawn, *kept] if at_end else [*kept, *drawn]
