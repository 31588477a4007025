"""Initial values of a soft prompt, and attaching it to the frozen base model."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from softprompts.errors import UserError
from softprompts.models import Kind, kind_of, max_positions

import torch
from peft import PeftModel, PromptLearningConfig, PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

TASK_TYPES: dict[Kind, TaskType] = {
    "decoder": TaskType.CAUSAL_LM,
    "encoder-decoder": TaskType.SEQ_2_SEQ_LM,
    "encoder": TaskType.SEQ_CLS,
}


def add_soft_prompt(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PromptTuningConfig, seed: int | None = None
) -> PeftModel:
    """Put a trainable soft prompt, float32 (num_virtual_tokens, hidden size), on a frozen base model.

    The three ways to start are PEFT's (`prompt_tuning_init`), with PEFT's two traps mended: a text is tokenized
    without special tokens (PEFT would make a begin-of-sequence token part of the prompt), and SAMPLE_VOCAB leaves
    out special tokens. Text that is too short repeats, text that is too long is cut, as in PEFT. Where values are
    drawn, `seed` decides them, or else the state of PyTorch's generator. The base itself stays as it is and may get
    any number of soft prompts. Of an encoder-decoder it is the encoder that gets it, as in Lester et al. (2021).

    Raises:
        UserError: no virtual tokens, more than the model has positions, or TEXT without a text.
    """
    # PEFT fills the text in by itself, special tokens included; so it draws at random, and the values are written over.
    model = attach(base, replace(config, prompt_tuning_init=PromptTuningInit.RANDOM), "prompt", seed)
    start, text = config.prompt_tuning_init, config.prompt_tuning_init_text
    set_start(model, initial_values(base, tokenizer, config.num_virtual_tokens or 0, start, text))
    attached = model.active_peft_config
    assert isinstance(attached, PromptTuningConfig)
    attached.prompt_tuning_init = config.prompt_tuning_init
    # Where the tokenizer really is: a `bundled:` name would mean nothing to PEFT elsewhere.
    attached.tokenizer_name_or_path = base.name_or_path
    return model


def attach(base: PreTrainedModel, config: PromptLearningConfig, section: str, seed: int | None) -> PeftModel:
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
        model = get_peft_model(base, plain)
    except ValueError as error:
        raise UserError(f"{section}: {' '.join(str(error).split())}") from None
    assert isinstance(model, PeftModel)
    return model


def for_base(config: Any, base: PreTrainedModel) -> Any:
    """Return a copy of a PEFT config with the kind of model, whose new classifier trains and is saved as well."""
    made = copy.copy(config)
    made.task_type = TASK_TYPES[kind_of(base.config)]
    if parts := getattr(base, "new_parts", []):
        made.modules_to_save = [*(made.modules_to_save or []), *parts]
    return made


def set_start(model: PeftModel, values: torch.Tensor | None) -> None:
    """Put initial values into the embedding of a soft prompt; None leaves what PEFT has drawn."""
    if values is not None:
        with torch.no_grad():
            encoder_of(model).embedding.weight.copy_(values)


def encoder_of(model: PeftModel) -> Any:
    """Return the module of PEFT's that holds, or computes, a model's soft prompt."""
    return model.prompt_encoder[model.active_adapter]


def initial_values(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, start: str, text: str | None
) -> torch.Tensor | None:
    """Return float32 values (count, hidden size), or None for PEFT's own random ones, N(0, 1).

    Args:
        base: whose input embeddings they are.
        tokenizer: of the base model.
        count: number of virtual tokens.
        start: TEXT, SAMPLE_VOCAB or RANDOM.
        text: for TEXT.
    """
    if start == "TEXT":
        chosen = text_ids(tokenizer, text, count, "prompt.prompt_tuning_init_text: TEXT")
    elif start == "SAMPLE_VOCAB":
        ordinary = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
        chosen = [ordinary[i] for i in torch.randint(0, len(ordinary), (count,)).tolist()]
    else:
        return None
    weight = base.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight[torch.tensor(chosen, device=weight.device)].detach().float()


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str | None, count: int, key: str) -> list[int]:
    """Return the token ids of a text without special tokens, cut or repeated to `count`.

    Raises:
        UserError: there are none; `key` is what asked for them.
    """
    ids = tokenizer(text or "", add_special_tokens=False).input_ids
    if not ids:
        raise UserError(f"{key} needs a text that tokenizes to something")
    return [ids[i % len(ids)] for i in range(count)]
