"""Load the frozen base model and its tokenizer, and count parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompts.bundled import BUNDLED, PREFIX, resolve
from softprompts.config import ModelConfig
from softprompts.errors import UserError

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of scalar parameters. A 4-bit base counts its packed values once each, as PEFT does."""

    total: int
    trainable: int


def load_base_model(config: ModelConfig, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the frozen causal language model, in evaluation mode on `device`, and its tokenizer.

    Raises:
        UserError: unknown bundled name; a folder that holds no model; a Hub id that cannot be had; a model that
            is no causal language model; no bitsandbytes for this device.
    """
    path = resolve(config.name_or_path)
    folder = Path(path)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(f"model.name_or_path: {path} is no model folder: it has no config.json")
    if not folder.exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise UserError(f"model.name_or_path: no such folder: {path}")
    dtype = getattr(torch, config.dtype)
    quantization = None
    if config.quantization == "nf4":
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    elif config.quantization == "int8":
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    transformers_logging.disable_progress_bar()  # "Loading weights" of one second; the download keeps its bar
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=config.revision,
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": device} if quantization else None,
            output_loading_info=True,
        )
        model, loading = loaded
        tokenizer = AutoTokenizer.from_pretrained(path, revision=config.revision)
    # SafetensorError: a weights file cut short. RuntimeError: weights whose shapes contradict config.json.
    except (OSError, ValueError, ImportError, KeyError, SafetensorError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0]
        hint = f'; bundled models: "{PREFIX}{next(iter(BUNDLED))}"' if not folder.exists() else ""
        raise UserError(f"model.name_or_path: cannot load {path}: {first_line}{hint}") from error
    if loading["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(loading["missing_keys"])
        raise UserError(f"model.name_or_path: {path} lacks {len(missing)} weights, the first: {missing[0]}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # With dropout active, or weights that still ask for a gradient, "frozen" would be a word only.
    model.eval().requires_grad_(False)
    for module in model.modules():
        # On processors with AVX512-BF16 the first forward pass without a gradient, a validation say, would repack the
        # 4-bit weights into a form whose product has no backward pass.
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    if quantization is None:
        nn.Module.to(model, device)  # bitsandbytes has placed its own
    return model, tokenizer


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count all parameters and those that train."""
    total = sum(p.numel() for p in model.parameters())
    return ParameterCount(total, sum(p.numel() for p in model.parameters() if p.requires_grad))


def max_positions(model: PreTrainedModel) -> int | None:
    """Return the longest sequence, in tokens, that the base model was built for, where its config says."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def room_for(model: PreTrainedModel, virtual_tokens: int) -> int | None:
    """Return the tokens that the base model has left beside the virtual ones; None where it has no limit."""
    positions = max_positions(model)
    return None if positions is None else positions - virtual_tokens
