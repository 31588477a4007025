"""Write an adapter in PEFT's format, together with a record of its base model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from softprompts.adapters.configs import CONFIG
from softprompts.models.bundled import portable_name
from softprompts.models.identity.base_model import write_record
from softprompts.models.identity.facts import facts_of, output_names
from softprompts.models.loading import kind_of
from softprompts.models.peft_compat import encoder_of, peft_model

import torch
from peft import (
    CPTConfig,
    MultitaskPromptTuningConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
)
from safetensors import safe_open
from transformers import PreTrainedModel


def folded(model: PeftModel, task: int | None = None) -> PeftModel:
    """Return a PEFT model with the output of a prompt encoder, or of a projection, as its soft prompt.

    P-tuning and multitask prompt tuning become plain prompt tuning; a projected prefix becomes a plain one. PEFT saves
    an encoder's output together with the encoder's config. Loading that would treat the output as the encoder's input.
    Any other model is returned as it is.

    Args:
        model: the trained model.
        task: number of the task, for multitask prompt tuning.
    """
    config, base = model.active_peft_config, cast(PreTrainedModel, model.get_base_model())
    common: dict[str, Any] = {
        "task_type": config.task_type,
        "num_virtual_tokens": getattr(config, "num_virtual_tokens", None),
        "num_transformer_submodules": getattr(config, "num_transformer_submodules", None),
        "modules_to_save": list(getattr(config, "modules_to_save", None) or []) or None,
    }
    with torch.no_grad():
        if isinstance(config, (PromptEncoderConfig, MultitaskPromptTuningConfig, CPTConfig)):
            values = model.get_prompt(1, None if task is None else torch.tensor([task], device=model.device))[0]
            plain = peft_model(base, PromptTuningConfig(**common))
        elif isinstance(config, PrefixTuningConfig) and config.prefix_projection:
            encoder = encoder_of(model)
            values = encoder(model.prompt_tokens[model.active_adapter].to(encoder.embedding.weight.device))
            plain = peft_model(base, PrefixTuningConfig(**common))
        else:
            return model
        encoder_of(plain).embedding.weight.copy_(values)
    return plain


def write_adapter(model: PeftModel, folder: Path, names: Sequence[str] = ()) -> None:
    """Write a stock PEFT adapter in safetensors into a folder; with `names`, one adapter per task below it.

    `base_model.json`, which PEFT does not read, records the base model and the task's choices; for a classifier, those
    are the meanings of its outputs. Both files name a bundled base model by the Hub id of its original.
    """
    for number, name in enumerate(names):
        _write(folded(model, number), folder / name)
    if not names:
        _write(folded(model), folder)


def _write(model: PeftModel, folder: Path) -> None:
    model.save_pretrained(str(folder), safe_serialization=True)
    base: Any = model.get_base_model()
    path, name = str(base.name_or_path), portable_name(str(base.name_or_path))
    file = folder / CONFIG
    config = json.loads(file.read_text(encoding="utf-8"))
    named = {key: name if value == path else value for key, value in config.items()}
    file.write_text(json.dumps(named, indent=2, sort_keys=True), encoding="utf-8")
    card = folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace(path, name), encoding="utf-8")
    facts = facts_of(base)
    choices = output_names(base.config) if kind_of(base.config) == "encoder" else facts.choices
    write_record(folder, facts.identity and replace(facts.identity, name=name), choices)


def saved_parameters(files: Sequence[Path]) -> int:
    """Return the number of scalars in safetensors files."""
    total = 0
    for file in files:
        with safe_open(str(file), "pt") as tensors:
            total += sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
    return total
