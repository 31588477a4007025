"""Adapters of every kind, saved with PEFT alone, and ways to damage their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import load_base
from softprompts.adapters.loading import load_adapter
from softprompts.config.sections import ModelConfig
from softprompts.config.tools import AdapterConfig, ExportConfig, InputConfig
from softprompts.export.forms import write_export

import torch
from peft import (
    AdaptionPromptConfig,
    CartridgeConfig,
    CPTConfig,
    IA3Config,
    LoraConfig,
    MultitaskPromptTuningConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

SOFT: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}
LORA: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 4, "init_lora_weights": False, "target_modules": ["q_proj"]}
KINDS: dict[str, Callable[[], PeftConfig]] = {
    "prompt": lambda: PromptTuningConfig(**SOFT),
    "prefix": lambda: PrefixTuningConfig(**SOFT),
    "projected prefix": lambda: PrefixTuningConfig(**SOFT, prefix_projection=True, encoder_hidden_size=16),
    "P-tuning": lambda: PromptEncoderConfig(**SOFT, encoder_hidden_size=16),
    "multitask": lambda: MultitaskPromptTuningConfig(**SOFT, num_tasks=2),
    "cartridge": lambda: CartridgeConfig(**SOFT),
    "CPT": lambda: CPTConfig(
        task_type="CAUSAL_LM", cpt_token_ids=[5, 6], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 2], num_virtual_tokens=2
    ),
    "LoRA": lambda: LoraConfig(**LORA),
    "LoRA, modules": lambda: LoraConfig(**LORA, modules_to_save=["embed_tokens", "lm_head"]),
    "LoRA, words": lambda: LoraConfig(**LORA | {"target_modules": ["embed_tokens", "lm_head"]}),
    "LoRA, tokens": lambda: LoraConfig(**LORA, trainable_token_indices=[300, 301]),
    "LoRA, norm": lambda: LoraConfig(**LORA, use_dora=True, modules_to_save=["norm"]),
    "LoRA, patterns": lambda: LoraConfig(**LORA, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3}),
    "LoRA, rank": lambda: LoraConfig(**LORA, use_rslora=True),
    "LoRA, layer": lambda: LoraConfig(**LORA, layers_to_transform=[1], bias="all"),
    "LoRA, half": lambda: LoraConfig(**LORA, target_parameters=[]),
    "IA3": lambda: IA3Config(task_type="CAUSAL_LM", target_modules=["v_proj"], feedforward_modules=[]),
    "AdaptionPrompt": lambda: AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=2),
    "tokens": lambda: TrainableTokensConfig(
        task_type="CAUSAL_LM", token_indices=[300, 301], target_modules=["embed_tokens"]
    ),
}


def saved(model: Path, config: PeftConfig, folder: Path) -> Any:
    """Save an adapter with PEFT alone, with values far from its initial ones; return the model."""
    torch.manual_seed(0)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).eval()
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    tuned.save_pretrained(str(folder))
    return tuned


def load(model: Path, folder: Path, **settings: Any) -> Any:
    return load_adapter(load_base(model)[0], AdapterConfig(str(folder), **settings))


def export_prefixes(model: Path, folder: Path, adapters: dict[str, Path], **settings: Any) -> list[str]:
    """Export prefixes as keys and values, compared with stock PEFT on two texts; return the lines about it."""
    named = {name: str(path) for name, path in adapters.items()}
    config = ExportConfig("kv_cache", str(folder), named, max_new_tokens=6, **settings)
    texts = InputConfig(["the film was good", "a very dull plot and a poor cast"], "{text} sentiment")
    return write_export(ModelConfig(str(model), dtype="float32"), AdapterConfig(), config, texts)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(file)).items()}, file, {"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
