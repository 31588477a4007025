"""Initial values of a soft prompt, and attaching it to the frozen base model."""

from __future__ import annotations

import copy

from softprompts.errors import UserError
from softprompts.models import max_positions

import torch
from peft import PeftModel, PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def add_soft_prompt(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PromptTuningConfig, seed: int | None = None
) -> PeftModel:
    """Put a trainable soft prompt, float32 (num_virtual_tokens, hidden size), on a frozen base model.

    The three ways to start are PEFT's (`prompt_tuning_init`), with PEFT's two traps mended: a text is tokenized
    without special tokens (PEFT would make a begin-of-sequence token part of the prompt), and SAMPLE_VOCAB leaves
    out special tokens. Text that is too short repeats, text that is too long is cut, as in PEFT. Where values are
    drawn, `seed` decides them, or else the state of PyTorch's generator. The base itself stays as it is and may get
    any number of soft prompts.

    Raises:
        UserError: no virtual tokens, more than the model has positions, or TEXT without a text.
    """
    count = config.num_virtual_tokens
    if not isinstance(count, int) or count < 1:
        raise UserError(f"prompt.num_virtual_tokens: expected a number above 0, found {count}")
    positions = max_positions(base)
    if positions is not None and count >= positions:
        raise UserError(f"prompt.num_virtual_tokens: {count} leave no room in the {positions} positions of the model")
    if seed is not None:
        torch.manual_seed(seed)
    # PEFT fills the text in by itself, special tokens included; so it draws at random, and the values are written over.
    plain = copy.copy(config)
    plain.task_type = TaskType.CAUSAL_LM
    plain.prompt_tuning_init = PromptTuningInit.RANDOM
    model = get_peft_model(base, plain)
    start = initial_values(base.get_input_embeddings(), tokenizer, config)
    if start is not None:
        with torch.no_grad():
            next(model.prompt_encoder.parameters()).copy_(start)
    attached = model.peft_config["default"]
    assert isinstance(attached, PromptTuningConfig)
    attached.prompt_tuning_init = config.prompt_tuning_init
    # Where the tokenizer really is: a `bundled:` name would mean nothing to PEFT elsewhere.
    attached.tokenizer_name_or_path = base.name_or_path
    return model


def initial_values(
    embeddings: nn.Module, tokenizer: PreTrainedTokenizerBase, config: PromptTuningConfig
) -> torch.Tensor | None:
    """Return float32 values (num_virtual_tokens, hidden size), or None for PEFT's own random ones, N(0, 1)."""
    count = config.num_virtual_tokens
    if config.prompt_tuning_init == PromptTuningInit.TEXT:
        ids = tokenizer(config.prompt_tuning_init_text or "", add_special_tokens=False).input_ids
        if not ids:
            raise UserError("prompt.prompt_tuning_init_text: TEXT needs a text that tokenizes to something")
        chosen = [ids[i % len(ids)] for i in range(count)]
    elif config.prompt_tuning_init == PromptTuningInit.SAMPLE_VOCAB:
        ordinary = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
        chosen = [ordinary[i] for i in torch.randint(0, len(ordinary), (count,)).tolist()]
    else:
        return None
    weight = embeddings.weight
    assert isinstance(weight, torch.Tensor)
    return weight[torch.tensor(chosen, device=weight.device)].detach().float()
