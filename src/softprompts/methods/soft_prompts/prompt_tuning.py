"""Prompt tuning: virtual tokens in front of the text (Lester et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from softprompts.config.methods import PromptConfig
from softprompts.methods.attach import (
    FROM_TEXT,
    as_peft,
    attach,
    check_loaded,
    initial_values,
    set_start,
)
from softprompts.methods.initial_text import initial_text
from softprompts.methods.parametrization import parametrize_prompt
from softprompts.tasks.task import Task, in_words

import torch
from peft import PeftModel, PromptTuningConfig, PromptTuningInit
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def add_soft_prompt(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: PromptConfig | PromptTuningConfig,
    *,
    seed: int | None = None,
    task: Task | None = None,
    start: torch.Tensor | None = None,
) -> PeftModel:
    """Put a trainable soft prompt, float32 (num_virtual_tokens, hidden size), on a frozen base model.

    What trains may be another parametrisation of these values: see `parametrization`.

    Three ways to start are PEFT's (`prompt_tuning_init`), with PEFT's two traps mended: a text is tokenized
    without special tokens (PEFT would make a begin-of-sequence token part of the prompt), and SAMPLE_VOCAB leaves
    out special tokens. Text that is too short repeats, text that is too long is cut, as in PEFT. The others are those
    of `PromptConfig`; what reaches PEFT, and is saved, is a plain PromptTuningConfig either way. Where values are
    drawn, `seed` decides them, or else the state of PyTorch's generator. The base itself stays as it is and may get
    any number of soft prompts. Of an encoder-decoder it is the encoder that gets it, as in Lester et al. (2021).

    Args:
        base: the base model.
        tokenizer: its tokenizer.
        config: the soft prompt.
        seed: of what is drawn.
        task: what it is for: a text to start from, or labels, are made of it if the config names none.
        start: values to begin with, as `load_start` reads them for `init_adapter`.

    Raises:
        UserError: no virtual tokens, more than the model has positions, labels of a task that has none; what
            `initial_text` and `parametrize_prompt` raise; values of another shape, or none
            of the adapter that the config names.
    """
    # PEFT fills the text in by itself, special tokens included; so it draws at random, and the values are written over.
    model = attach(
        base,
        as_peft(config, PromptTuningConfig, prompt_tuning_init=PromptTuningInit.RANDOM),
        section="prompt",
        seed=seed,
    )
    count = config.num_virtual_tokens or 0
    way, text, labels, fill = _beginning(config, task, start)
    attached = cast(PromptTuningConfig, model.active_peft_config)
    attached.prompt_tuning_init = PromptTuningInit(way if way in PromptTuningInit.__members__ else "RANDOM")
    attached.prompt_tuning_init_text = text  # without rows of train, which are nobody's who gets the adapter
    if way in FROM_TEXT:
        text = initial_text(way, task, tokenizer, count, first=text, section="prompt")
    if start is None:
        start = initial_values(base, tokenizer, count, start=way, text=text, labels=labels, fill=fill)
    set_start(model, start, "prompt.init_adapter")
    if isinstance(config, PromptConfig):
        parametrize_prompt(model, base, tokenizer, config)
    # Where the tokenizer really is: a `bundled:` name would mean nothing to PEFT elsewhere.
    attached.tokenizer_name_or_path = base.name_or_path
    return model


def _beginning(
    config: PromptConfig | PromptTuningConfig, task: Task | None, start: torch.Tensor | None
) -> tuple[str, str | None, Sequence[str] | None, str]:
    """Return the way to start, the text that a config or task gives for it, labels, and what lengthens a short text."""
    way: str = config.prompt_tuning_init or "TEXT"
    text, labels, fill = config.prompt_tuning_init_text, None, "repeat"
    if isinstance(config, PromptConfig):
        check_loaded(config, start)
        way, fill = "RANDOM" if config.init_adapter else config.init_from or way, config.init_fill
        labels = config.init_labels or (task.choices if task else None)
    if way == "TEXT" and text is None and task is not None:
        text = in_words(task)
    return way, text, labels, fill


def smallest(base: Any, _: Any) -> Any:
    """Put a soft prompt on a base model, as small as it goes: for `preflight`."""
    return attach(base, PromptTuningConfig(num_virtual_tokens=2), section="prompt", seed=None)
