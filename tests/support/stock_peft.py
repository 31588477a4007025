"""Stock PEFT as the reference: its adapters on a base model, and its own generation."""

from __future__ import annotations

import copy
from typing import Any

from helpers import METHODS

import torch
from peft import get_peft_model
from transformers import GenerationConfig


def adapted(base: Any, method: str) -> Any:
    """Put one of METHODS on a base model, with values by a seed."""
    torch.manual_seed(3)
    config = METHODS[method]
    return base if config is None else get_peft_model(base, copy.deepcopy(config)).eval()


def by_stock(model: Any, new: int, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    """Return stock PEFT's answers, one unpadded row at a time, with plain settings."""
    plain = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=1, pad_token_id=0, use_cache=True)
    written = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        (row,) = model.generate(input_ids=ids, attention_mask=mask, generation_config=plain).tolist()
        answer = row[len(prompt) :]
        written.append(answer[: answer.index(1)] if 1 in answer else answer)
    return written
