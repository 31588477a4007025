"""Prompt tuning: learned embeddings of virtual tokens before the text (Lester et al. 2021)."""

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
    tell_of_unread_text,
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
    """Add a trainable soft prompt, float32 (num_virtual_tokens, hidden size), to a frozen base model.

    Training may use another parametrisation of these values, see `parametrization`.

    PEFT has three kinds of initial values (`prompt_tuning_init`). This function avoids two of PEFT's traps: a text is
    tokenized without special tokens, because PEFT would put a begin-of-sequence token into the prompt; and SAMPLE_VOCAB
    skips special tokens. As in PEFT, a short text is repeated, and a long text is cut. `PromptConfig` has further
    kinds. The saved config is always a plain PromptTuningConfig. `seed`, or else the state of PyTorch's generator,
    decides random values. The base model does not change, and may get any number of soft prompts. In an
    encoder-decoder, the encoder gets the soft prompt, as in Lester et al. (2021).

    Args:
        base: the base model.
        tokenizer: its tokenizer.
        config: the soft prompt.
        seed: seed of random values.
        task: the task, for initial values from a text or from labels that the config does not name.
        start: initial values from `load_start`, for `init_adapter`.

    Raises:
        UserError: there are no virtual tokens, or more than the model's positions; the task has no labels; as
            `initial_text` and `parametrize_prompt`; the initial values have another shape, or the config's adapter was
            not read.
    """
    # PEFT would include special tokens of the text. So PEFT uses random values, which are then overwritten.
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
    # Without rows of train, which an adapter's users should not get.
    attached.prompt_tuning_init_text = text if way in ("TEXT", *FROM_TEXT) else None
    if way in FROM_TEXT:
        text = initial_text(way, task, tokenizer, count, first=text, section="prompt")
    if start is None:
        start = initial_values(base, tokenizer, count, start=way, text=text, labels=labels, fill=fill)
    set_start(model, start, "prompt.init_adapter")
    if isinstance(config, PromptConfig):
        parametrize_prompt(model, base, tokenizer, config)
    # The tokenizer's real place, because PEFT does not know `bundled:` names.
    attached.tokenizer_name_or_path = base.name_or_path
    return model


def _beginning(
    config: PromptConfig | PromptTuningConfig, task: Task | None, start: torch.Tensor | None
) -> tuple[str, str | None, Sequence[str] | None, str]:
    """Return the kind of initial values, their text, labels, and the tokens that lengthen a short text."""
    way: str = config.prompt_tuning_init or "TEXT"
    text, labels, fill = config.prompt_tuning_init_text, None, "repeat"
    if isinstance(config, PromptConfig):
        check_loaded(config, start)
        way, fill = "RANDOM" if config.init_adapter else config.init_from or way, config.init_fill
        labels = config.init_labels or (task.choices if task else None)
    if text is not None and way not in ("TEXT", *FROM_TEXT):
        tell_of_unread_text("an adapter" if start is not None else way)
    if way == "TEXT" and text is None and task is not None:
        text = in_words(task)
    return way, text, labels, fill


def smallest(base: Any, _: Any) -> Any:
    """Add a small soft prompt to a base model, for `preflight`."""
    return attach(base, PromptTuningConfig(num_virtual_tokens=2), section="prompt", seed=None)
