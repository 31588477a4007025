"""Record an adapter's base model next to it: sizes, config, and digests of weights and tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from softprompts.errors import UserError
from softprompts.models.identity.settings import config_fields, tokenizer_digests
from softprompts.models.identity.weights import TYPES, digests_of

import torch
from peft import PeftModel
from torch import nn
from transformers import PretrainedConfig

RECORD = "base_model.json"
SIZES = {
    "hidden_size": "hidden size",
    "num_hidden_layers": "layers",
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "groups of attention heads",
    "intermediate_size": "intermediate size",
}
# Names of folders that do not identify a model.
GENERIC = re.compile(
    r"\.+|[0-9a-f]{40}|(model|checkpoint|ckpt|global_?step|step|epoch|iter|v|run)?[-_]?\d+|"
    r"((my|final|best|last|latest|merged|base|saved|full|pytorch|hf|trained|fine-?tuned|models?|weights|checkpoints?|"
    r"ckpts?|outputs?|out|export|exported|results?|main|snapshots?)[-_ ]?)+"
)


@dataclass(frozen=True)
class Identity:
    """The properties that identify a base model.

    weights: SHA-256 of the weights in each data type, by its name. A 32-bit model also has the digests of its 16-bit
    versions, so that an adapter can be trained in one type and loaded in another. Empty for a quantised model. config:
    the config's fields that affect outputs; tokenizer: digests of the tokenizer's parts. Records of older versions have
    neither.
    """

    name: str
    architecture: str
    sizes: dict[str, int]
    weights: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """The record next to an adapter; None if unknown.

    Args:
        base: the base model.
        choices: the task's choices; for an encoder, the choice of each classifier output.
    """

    base: Identity | None = None
    choices: list[str] | None = None


def sizes_of(config: PretrainedConfig) -> dict[str, int]:
    """Return the sizes in a model's config."""
    text = config.get_text_config()
    values = {key: getattr(text, key, None) for key in SIZES}
    return {key: value for key, value in values.items() if isinstance(value, int)}


def identity_of(model: Any, new_parts: Sequence[str] = (), tokenizer: Any = None, *, labels: bool = False) -> Identity:
    """Return the identity of a base model as loaded.

    Args:
        model: the model, without an adapter in its layers.
        new_parts: modules with random weights, which do not belong to the base model.
        tokenizer: the model's own tokenizer, as loaded.
        labels: whether the model came with a classifier, see `config_fields`.
    """
    return Identity(
        str(model.name_or_path),
        model.config.model_type,
        sizes_of(model.config),
        # Other versions and devices quantise the same weights differently.
        {} if getattr(model, "is_quantized", False) else weights_digests(model, new_parts),
        config_fields(model.config, labels=labels),
        {} if tokenizer is None else tokenizer_digests(tokenizer),
    )


@torch.no_grad()
def weights_digests(model: nn.Module, new_parts: Collection[str] = ()) -> dict[str, str]:
    """Return SHA-256 digests of a base model's weights: their names, shapes and evenly spread numbers, by type.

    A model with an adapter has the digests of its base model.

    Args:
        model: a base model, or a PEFT model with an adapter in its layers.
        new_parts: modules with random weights, which do not belong to the base model.

    Returns:
        For 32-bit weights, a digest for each type that they may be loaded in (`float32`, `bfloat16`, `float16`). For
        16-bit weights, a digest for that type. For weights of several types, such as quantised ones, one digest of all:
        `mixed`.
    """
    own = weights_of(model, new_parts)
    types = {p.dtype for p in own.values()} - {torch.float32}
    held: dict[str, torch.dtype | None]
    if len(types) > 1 or getattr(_base_of(model), "is_quantized", False):
        held = {"mixed": None}
    else:
        # Loading in 16 bits rounds the 32-bit values of a file. The reverse is not possible.
        held = {str(t).removeprefix("torch."): t for t in types or TYPES.values()}
    return digests_of(own.items(), held)


def weights_of(model: nn.Module, new_parts: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """Return a base model's own weights by name, each once. Arguments are those of `weights_digests`."""
    named = _base_of(model).named_parameters()
    return {base_name(name): parameter for name, parameter in named if not _is_added(name, new_parts)}


def _base_of(model: nn.Module) -> nn.Module:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def base_name(name: str) -> str:
    """Return a weight's name without the parts from PEFT's wrappers."""
    return ".".join(part for part in name.split(".") if part not in ("base_layer", "original_module"))


def _is_added(name: str, new_parts: Collection[str]) -> bool:
    return any(p in new_parts or p == "modules_to_save" or p.startswith(("lora_", "ia3_")) for p in name.split("."))


def same_weights(one: Identity, other: Identity) -> bool | None:
    """Return whether two models have the same weights; None if unknown, for example for a quantised model."""
    common = sorted(one.weights.keys() & other.weights.keys())
    return one.weights[common[0]] == other.weights[common[0]] if common else None


def same_name(one: str, other: str) -> bool | None:
    """Return whether two paths or Hub ids name the same model, by their last parts; None if names are generic.

    If a path ends in a generic name such as `model` or `checkpoint-500`, the parts before it are compared.
    """
    names = _telling(one), _telling(other)
    if not all(names):
        return None
    length = max(map(len, names))
    tails = [[part.casefold() for part in Path(path).parts][-length:] for path in (one, other)]
    return tails[0] == tails[1]


def _telling(path: str) -> list[str]:
    """Return the last parts of a path, from the last one that is not generic; none if all are."""
    parts = [part for part in Path(path).parts if part != "/"]
    for number in range(len(parts) - 1, -1, -1):
        if not GENERIC.fullmatch(parts[number].casefold()):
            return parts[number:]
    return []


def write_record(folder: Path, identity: Identity | None, choices: Collection[str] | None) -> None:
    """Write the file that `read_record` reads."""
    record = (asdict(identity) if identity else {}) | ({"choices": list(choices)} if choices else {})
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record:
    """Return the record next to an adapter; empty if there is none.

    Raises:
        UserError: the file is not a record, or is damaged.
    """
    file = folder / RECORD
    if not file.is_file():
        return Record()
    try:
        read: Any = json.loads(file.read_text(encoding="utf-8"))
        identity = None
        if "weights" in read:
            since = {key: read[key] for key in ("config", "tokenizer") if key in read}  # older versions have neither
            identity = Identity(read["name"], read["architecture"], read["sizes"], read["weights"], **since)
            digests = (identity.weights, identity.tokenizer)
            texts = [identity.name, identity.architecture, *(text for one in digests for text in one.values())]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("expected texts")
            if not all(isinstance(fields, dict) for fields in (identity.sizes, identity.config)):
                raise TypeError("expected sizes and fields")
        choices = read.get("choices")
        if choices is not None and not (isinstance(choices, list) and all(isinstance(c, str) for c in choices)):
            raise TypeError("choices: expected a list of texts")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise UserError(
            f"adapter.path: {file} is damaged: {why}; without that file, the base model is identified by its name"
        ) from None
    return Record(identity, choices)
