"""Find the methods that a base model supports, from its config alone, before a download or training.

    python -m softprompts.methods.preflight NAME_OR_PATH

builds the model without weights (on PyTorch's meta device), adds each method and runs PEFT's own forward pass.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
from collections.abc import Sequence
from typing import Any

from softprompts.config.methods import IA3Config, LoraConfig
from softprompts.config.sections import ModelConfig
from softprompts.errors import UserError, nearest
from softprompts.methods.baselines.full_finetuning import WHOLE_WEIGHTS
from softprompts.methods.catalog import METHODS
from softprompts.models.loading import AUTO, Kind, kind_of, load_model_config
from softprompts.system.logs import print_log

import torch
from peft import MultitaskPromptTuningConfig
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

logger = logging.getLogger(__name__)

Settings = LoraConfig | IA3Config | None
PREFIX_AND_CHECKPOINTS = (
    "model.gradient_checkpointing: cannot be combined with prefix tuning, because recomputing would add each layer's "
    "keys and values to the cache a second time. Set training.micro_batch_tokens to save memory"
)


def check_method(method: str, model: ModelConfig, settings: Settings = None) -> None:
    """Raise `UserError` if the base model does not support a method. Only its config is read.

    Args:
        method: one of METHODS.
        model: the base model's settings.
        settings: settings of LoRA or IA3, whose target modules must exist.
    """
    if method not in METHODS:
        raise UserError(
            f'check_method: no method "{method}"{nearest(method, [*METHODS])} in softprompts.methods.catalog; '
            "add it there, or remove this check from your recipe"
        )
    if method == "full_finetuning" and model.quantization != "none":
        raise UserError(WHOLE_WEIGHTS)
    if method in ("prefix_tuning", "context_tuning") and model.gradient_checkpointing:
        raise UserError(PREFIX_AND_CHECKPOINTS)
    config = load_model_config(model)
    reason = refusal(method, config, settings)
    if reason:
        section = METHODS[method].section
        if settings and reason.startswith((f"{section}: ", f"{section}.")):
            raise UserError(reason)
        others = [name for name in METHODS if name != method and refusal(name, config) is None]
        raise UserError(
            f"model.name_or_path: {model.name_or_path} ({config.model_type}) does not support {method}: {reason}; "
            f"it supports {', '.join(others) or 'none of our methods'}"
        )


def refusal(method: str, config: PretrainedConfig, settings: Settings = None) -> str | None:
    """Return the reason why a model of this config does not support a method; None if it does."""
    known = METHODS[method]
    kind = kind_of(config)
    if kind not in known.kinds:
        return known.refusals[kind]
    base = without_weights(config, kind)
    if base is None:
        return None
    try:
        probe(known.smallest()(base, settings))
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None


def without_weights(config: PretrainedConfig, kind: Kind) -> Any:
    """Return the model on PyTorch's meta device; None if its forward pass cannot run there."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with torch.device("meta"):
            base = AUTO[kind].from_config(copy.deepcopy(config), attn_implementation="eager").eval()
        probe(base)
    except Exception:  # the model needs numbers, so nothing is known, and nothing is refused
        logger.debug("%s cannot run without weights", config.model_type, exc_info=True)
        return None
    finally:
        transformers_logging.set_verbosity(verbosity)
    return base


def probe(model: Any) -> None:
    """Run PEFT's own forward pass on three tokens."""
    with torch.device("meta"), torch.no_grad():
        ids = torch.zeros(1, 3, dtype=torch.long)
        arguments = {"input_ids": ids}
        if kind_of(model.config) == "encoder-decoder":
            arguments["decoder_input_ids"] = ids
        if isinstance(getattr(model, "active_peft_config", None), MultitaskPromptTuningConfig):
            arguments["task_ids"] = ids[:, 0]
        model.to("meta")(**arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Print for each method whether a base model supports it, if this is known; return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m softprompts.methods.preflight", description="Show the methods that a base model supports."
    )
    parser.add_argument("name_or_path", help="bundled:NAME, a folder, or a Hub id")
    name = parser.parse_args(argv).name_or_path
    print_log()
    try:
        config = load_model_config(ModelConfig(name))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{name}: {config.model_type}, {kind_of(config)}")
    tried = without_weights(config, kind_of(config)) is not None
    taken = "yes" if tried else "unknown: the forward pass cannot run without weights"
    for method in METHODS:
        print(f"  {method:24} {refusal(method, config) or taken}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
