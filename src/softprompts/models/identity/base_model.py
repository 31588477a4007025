"""Which base model an adapter belongs to: sizes, config, digests of weights and tokenizer, in a file beside it."""

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
# A folder of such a name says nothing about what is in it.
GENERIC = re.compile(
    r"\.+|[0-9a-f]{40}|(model|checkpoint|ckpt|global_?step|step|epoch|iter|v|run)?[-_]?\d+|"
    r"((my|final|best|last|latest|merged|base|saved|full|pytorch|hf|trained|fine-?tuned|models?|weights|checkpoints?|"
    r"ckpts?|outputs?|out|export|exported|results?|main|snapshots?)[-_ ]?)+"
)


@dataclass(frozen=True)
class Identity:
    """What makes a base model that one.

    weights: SHA-256 of its weights as each type would hold them, by the type's name: a model in 32 bits says what it
    would be in 16, so that an adapter can be trained in one type and loaded in another. Empty for a quantised model.
    config: the fields of its config that decide its answers; tokenizer: digests of the parts of its tokenizer. Both are
    empty in the records of older versions.
    """

    name: str
    architecture: str
    sizes: dict[str, int]
    weights: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What stands beside an adapter: its base model, and what each output of its classifier means; None if unsaid."""

    base: Identity | None = None
    choices: list[str] | None = None


def sizes_of(config: PretrainedConfig) -> dict[str, int]:
    """Return a model's sizes, as far as its config names them."""
    text = config.get_text_config()
    values = {key: getattr(text, key, None) for key in SIZES}
    return {key: value for key, value in values.items() if isinstance(value, int)}


def identity_of(model: Any, new_parts: Sequence[str] = (), tokenizer: Any = None, *, labels: bool = False) -> Identity:
    """Return a base model's identity, as it was loaded.

    Args:
        model: without an adapter in its layers.
        new_parts: modules with random weights, which belong to no base model.
        tokenizer: the model's own, as it was loaded.
        labels: whether it came with a classifier, see `config_fields`.
    """
    return Identity(
        str(model.name_or_path),
        model.config.model_type,
        sizes_of(model.config),
        # The same weights are quantised otherwise by another version, or on another device.
        {} if getattr(model, "is_quantized", False) else weights_digests(model, new_parts),
        config_fields(model.config, labels=labels),
        {} if tokenizer is None else tokenizer_digests(tokenizer),
    )


@torch.no_grad()
def weights_digests(model: nn.Module, new_parts: Collection[str] = ()) -> dict[str, str]:
    """Return SHA-256 digests of a base model's weights: their names, shapes and evenly spread numbers, by type.

    A model with an adapter on it gives what its base model gives alone.

    Args:
        model: a base model, or a model of PEFT's with an adapter in its layers.
        new_parts: modules with random weights, which belong to no base model.

    Returns:
        For weights in 32 bits, a digest of each type that they may be loaded in (`float32`, `bfloat16`, `float16`).
        In 16 bits, a digest of that type alone. For weights of several types, as quantised ones are, one digest of all
        as they are: `mixed`.
    """
    own = weights_of(model, new_parts)
    types = {p.dtype for p in own.values()} - {torch.float32}
    held: dict[str, torch.dtype | None]
    if len(types) > 1 or getattr(_base_of(model), "is_quantized", False):
        held = {"mixed": None}
    else:
        # 32 bits hold what a file holds, and rounding that is what loading in 16 bits does; back there is no way.
        held = {str(t).removeprefix("torch."): t for t in types or TYPES.values()}
    return digests_of(own.items(), held)


def weights_of(model: nn.Module, new_parts: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """Return a base model's own weights by name, each once; arguments as for `weights_digests`."""
    named = _base_of(model).named_parameters()
    return {base_name(name): parameter for name, parameter in named if not _is_added(name, new_parts)}


def _base_of(model: nn.Module) -> nn.Module:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def base_name(name: str) -> str:
    """Return a weight's name without what PEFT's wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in ("base_layer", "original_module"))


def _is_added(name: str, new_parts: Collection[str]) -> bool:
    return any(p in new_parts or p == "modules_to_save" or p.startswith(("lora_", "ia3_")) for p in name.split("."))


def same_weights(one: Identity, other: Identity) -> bool | None:
    """Say whether two models hold the same weights; None if it is not known, for a quantised one say."""
    common = sorted(one.weights.keys() & other.weights.keys())
    return one.weights[common[0]] == other.weights[common[0]] if common else None


def same_name(one: str, other: str) -> bool | None:
    """Say whether two paths or Hub ids name the same model, by their last parts; None if they say nothing.

    Of a path that ends in `model`, `checkpoint-500` or the like, the parts in front are compared as well.
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
    """Write what `read_record` reads."""
    record = (asdict(identity) if identity else {}) | ({"choices": list(choices)} if choices else {})
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record:
    """Return what stands beside an adapter; empty if nothing does.

    Raises:
        UserError: the file is no record, or a damaged one.
    """
    file = folder / RECORD
    if not file.is_file():
        return Record()
    try:
        read: Any = json.loads(file.read_text(encoding="utf-8"))
        identity = None
        if "weights" in read:
            since = {key: read[key] for key in ("config", "tokenizer") if key in read}  # older versions wrote neither
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
            f"adapter.path: {file} is damaged: {why}; without that file the base model is told by its name"
        ) from None
    return Record(identity, choices)
