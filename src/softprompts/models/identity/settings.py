"""Compare the parts of two base models' configs and tokenizers that affect outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Fields of a config that depend on loading, saving or versions, or that set the form of outputs.
LOADING = {
    "architectures",
    "dtype",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "quantization_config",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
# Parts of a tokenizer in the format of the tokenizers library, and their names in words.
PARTS = {
    "added_tokens": "added tokens",
    "normalizer": "normalizer",
    "pre_tokenizer": "pre-tokenizer",
    "post_processor": "post-processor",
    "decoder": "decoder",
    "model": "vocabulary",
    "special_tokens": "special tokens",
    "spaces": "treatment of spaces",
    "chat_template": "chat template",
}


def config_fields(config: Any, *, labels: bool) -> dict[str, Any]:
    """Return the fields of a base model's config that affect its outputs, as JSON values.

    Args:
        config: the base model's config.
        labels: whether to include the meaning of a classifier's outputs, because the base model came with it. The task
            decides the meaning of a new classifier.
    """
    fields = _without(config.to_dict(), LOADING | (set() if labels else {"id2label"}))
    made: dict[str, Any] = json.loads(json.dumps(fields, default=str))
    return made


def _without(fields: Mapping[Any, Any], left_out: set[str]) -> dict[str, Any]:
    """Return fields, including those of a model's parts, without private ones and those in `left_out`."""
    return {
        str(key): _without(value, left_out) if isinstance(value, Mapping) else value
        for key, value in fields.items()
        if key not in left_out and not str(key).startswith("_")
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return differences of two configs: name, old and new value; for nested fields only the first difference.

    A field that only one config has comes from another version of transformers, and is ignored.
    """
    found = []
    for key in sorted(before.keys() & now.keys()):
        was, is_ = before[key], now[key]
        if isinstance(was, Mapping) and isinstance(is_, Mapping):
            found += [(f"{key}.{name}", a, b) for name, a, b in differences(was, is_)[:1]]
        elif was != is_:
            found.append((key, was, is_))
    return found


def tokenizer_digests(tokenizer: Any) -> dict[str, str]:
    """Return a SHA-256 digest of each part of a tokenizer, by its name in `PARTS`.

    The padding token is left out, because nothing reads it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in Python
        vocabularies = {"model": tokenizer.get_vocab(), "added_tokens": tokenizer.get_added_vocab()}
        parts: dict[str, Any] = {key: sorted(tokens.items()) for key, tokens in vocabularies.items()}
    else:
        read = json.loads(backend.to_str())
        parts = {key: value for key, value in read.items() if key in PARTS}
    special = {key: value for key, value in tokenizer.special_tokens_map.items() if key != "pad_token"}
    parts["special_tokens"] = sorted(special.items())
    parts["spaces"] = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
    parts["chat_template"] = getattr(tokenizer, "chat_template", None)
    texts = {key: json.dumps(value, default=str) for key, value in parts.items()}  # in the library's own order
    return {key: hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for key, text in texts.items()}


def other_parts(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return in words the parts that differ between two tokenizers, if both are known."""
    return [name for key, name in PARTS.items() if key in before and key in now and before[key] != now[key]]
