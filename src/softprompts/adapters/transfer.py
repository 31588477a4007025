"""Initialise a soft prompt or a prefix with that of another task (transfer; Vu et al. 2022, "SPoT")."""

from __future__ import annotations

from pathlib import Path

from softprompts.adapters.checks import check_sizes, read_weights
from softprompts.adapters.configs import check_base, check_identity, read_config
from softprompts.adapters.loading import find_adapter
from softprompts.config.methods import PrefixConfig, PromptConfig
from softprompts.config.tools import AdapterConfig
from softprompts.errors import UserError, settings_named
from softprompts.models.identity.base_model import read_record

import torch
from peft import PeftConfig, PeftType
from transformers import PreTrainedModel

# The key of a soft prompt in PEFT's files, for every method.
VALUES = "prompt_embeddings"


def load_start(base: PreTrainedModel, config: PromptConfig | PrefixConfig) -> torch.Tensor | None:
    """Return the initial values from a trained adapter, float32; None if the config names none.

    A soft prompt has shape (num_virtual_tokens, hidden size), a prefix (num_virtual_tokens, layers * 2 * groups * head
    size). The classifier of an adapter is not read: the new task has its own.

    Raises:
        UserError: the adapter is missing or damaged, or has another type or length; its base model differs, as
            `load_adapter` compares them.
    """
    if config.init_adapter is None:
        return None
    section, kind = "prompt", PeftType.PROMPT_TUNING
    if isinstance(config, PrefixConfig):
        section, kind = "prefix", PeftType.PREFIX_TUNING
    adapter = AdapterConfig(config.init_adapter, any_base=config.init_any_base)
    with settings_named({"adapter.path": f"{section}.init_adapter", "adapter.any_base": f"{section}.init_any_base"}):
        folder = find_adapter(config.init_adapter)
        settings = read_config(folder)
        if settings.peft_type != kind:
            found = getattr(settings.peft_type, "value", settings.peft_type)
            raise UserError(f"adapter.path: {folder} is of type {found}; expected {kind.value}")
        values = read_values(base, settings, folder=folder, config=adapter)[VALUES]
        count = len(values)
        if count != config.num_virtual_tokens:
            raise UserError(
                f"adapter.path: {folder} has {count} virtual tokens, but {section}.num_virtual_tokens is "
                f"{config.num_virtual_tokens}; set it to {count}"
            )
    return values.float()


def read_values(
    base: PreTrainedModel, settings: PeftConfig, *, folder: Path, config: AdapterConfig
) -> dict[str, torch.Tensor]:
    """Return the tensors of a soft prompt's file without a PEFT model. One of them is the table `VALUES`.

    Args:
        base: the base model.
        settings: the adapter's config.
        folder: the adapter's folder.
        config: the settings for loading.

    Raises:
        UserError: the base model differs, as `load_adapter` compares them; the file is damaged or lacks that table.
    """
    record = read_record(folder)
    check_base(base, settings, folder=folder, config=config, record=record)
    check_identity(base, settings, folder=folder, config=config, record=record)
    tensors = read_weights(folder)
    check_sizes(settings, tensors, folder)
    if VALUES not in tensors or tensors[VALUES].dim() != 2:
        raise UserError(f"adapter.path: {folder} lacks the table {VALUES} that PEFT saves")
    return tensors
