"""Prompt tuning: virtual tokens in front of the text (Lester et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from softprompts.errors import UserError
from softprompts.methods.attach import attach, initial_values, set_start

from peft import PeftModel, PromptTuningConfig, PromptTuningInit
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass
class PromptConfig(PromptTuningConfig):
    """PEFT's PromptTuningConfig and the ways to start of Lester et al. (2021), section 3.2, that PEFT lacks.

    Args:
        init_from: `uniform` draws from [-0.5, 0.5]; `frequent` draws embeddings of frequent tokens; `labels` takes
            those of the class labels, and frequent ones where the prompt is longer. null begins as prompt_tuning_init
            says.
        init_labels: for `labels`, with the space that stands before a word; by default the task's choices.

    Raises:
        UserError: two ways to start; labels that nothing reads, or none.
    """

    init_from: Literal["uniform", "frequent", "labels"] | None = None
    init_labels: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # Now, and not after a download.
        start = getattr(self.prompt_tuning_init, "value", self.prompt_tuning_init)
        if self.init_from is not None and start != PromptTuningInit.RANDOM:
            raise UserError(
                f"prompt.init_from: {self.init_from} not with prompt_tuning_init: {start}; "
                "set that to RANDOM, or init_from to null"
            )
        if self.init_labels is not None and self.init_from != "labels":
            raise UserError("prompt.init_labels: are for init_from: labels; set that, or init_labels to null")
        if self.init_labels is not None and not self.init_labels:
            raise UserError("prompt.init_labels: expected at least one label; null takes the task's choices")


def add_soft_prompt(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: PromptTuningConfig,
    seed: int | None = None,
    choices: Sequence[str] | None = None,
) -> PeftModel:
    """Put a trainable soft prompt, float32 (num_virtual_tokens, hidden size), on a frozen base model.

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
        choices: the task's, for a start from labels that the config does not name.

    Raises:
        UserError: no virtual tokens, more than the model has positions, TEXT without a text, labels of a task that has
            none.
    """
    plain = {f.name: getattr(config, f.name) for f in fields(PromptTuningConfig) if f.init}
    # PEFT fills the text in by itself, special tokens included; so it draws at random, and the values are written over.
    random = PromptTuningConfig(**plain | {"prompt_tuning_init": PromptTuningInit.RANDOM})
    model = attach(base, random, "prompt", seed)
    start, text = config.prompt_tuning_init, config.prompt_tuning_init_text
    if isinstance(config, PromptConfig):
        start, choices = config.init_from or start, config.init_labels or choices
    set_start(model, initial_values(base, tokenizer, config.num_virtual_tokens or 0, start, text, choices))
    attached = model.active_peft_config
    assert isinstance(attached, PromptTuningConfig)
    attached.prompt_tuning_init = config.prompt_tuning_init
    # Where the tokenizer really is: a `bundled:` name would mean nothing to PEFT elsewhere.
    attached.tokenizer_name_or_path = base.name_or_path
    return model
