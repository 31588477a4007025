"""Fingerprint the inputs of a checkpoint: the rows, their tokens, the base model, and the code."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from softprompts.data.sources import SPLITS
from softprompts.encoding.documents import EncodedTask, digest_of_tokens
from softprompts.models.identity.base_model import weights_digests
from softprompts.models.identity.facts import facts_of
from softprompts.models.identity.settings import config_fields, differences, other_parts
from softprompts.runs.environment import commit
from softprompts.system.files import read_bytes

from peft import PeftModel


def inputs_of(data: EncodedTask, model: Any) -> dict[str, Any]:
    """Return the fingerprints of all inputs of training, as JSON values.

    Args:
        data: the encoded task.
        model: the base model, or a model with an adapter, before a checkpoint is loaded into it.
    """
    splits = data.task.fingerprint()
    for split in SPLITS:
        splits[split]["tokens"] = digest_of_tokens(getattr(data, split))
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    facts = facts_of(base)
    return {
        "data": splits,
        "schema": _digest(data.task.schema),
        "metric_data": _digest(data.task.metric_data),
        "metrics": {name: digest for name in data.task.metrics if (digest := _source_fingerprint(name))},
        "base": {
            "name": str(base.name_or_path),
            "weights": weights_digests(model, facts.new_parts),
            "dtype": str(base.dtype).removeprefix("torch."),
            "config": config_fields(base.config, labels=facts.own_labels),
            "tokenizer": facts.identity.tokenizer if facts.identity else {},
        },
        "ends": list(data.ends) if data.task.choices is None else None,  # with choices, nothing is generated
        "code": {"commit": commit()} | {p: version(p) for p in ("softprompts", "torch", "transformers", "peft")},
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _source_fingerprint(metric: str) -> str | None:
    """Return the SHA-256 of a user's own metric file, which may choose checkpoints; None for other metrics."""
    path = Path(metric)
    file = path / f"{path.name}.py" if path.is_dir() else path
    return hashlib.sha256(read_bytes(file)).hexdigest() if file.is_file() else None


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the changes of `inputs_of` that prevent training from continuing, one clause each."""
    found = [text for split in SPLITS if (text := _change_of_split(split, before["data"][split], now["data"][split]))]
    if before["schema"] != now["schema"]:
        found.append("the content of task.schema differs")
    if before.get("metric_data", now["metric_data"]) != now["metric_data"]:  # older versions had none
        found.append("the content of task.metric_data differs")
    for name, digest in now["metrics"].items():
        if before["metrics"].get(name) != digest:
            found.append(f"the file of the metric {name} has changed")
    found += _changes_of_base(before["base"], now["base"])
    if before.get("teacher") != now.get("teacher"):
        found.append("the teacher or its rows have changed")
    # Older versions did not keep the ends.
    if before.get("ends", now["ends"]) != now["ends"]:
        found.append(f"generated predictions ended at the tokens {before['ends']} and now end at {now['ends']}")
    return found


def _change_of_split(split: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    if old["rows"] != new["rows"]:
        return f"{split} had {old['rows']} rows and now has {new['rows']}"
    if old["sha256"] != new["sha256"]:
        return f"{split} has other rows, in the same number ({new['rows']})"
    if old.get("masked") != new.get("masked"):
        return f"{split} has the same rows, but other personal data are masked"
    if old["tokens"] != new["tokens"]:
        return f"{split} has the same rows, but other tokens or tasks"
    return ""


def _changes_of_base(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    found = []
    if old["dtype"] != new["dtype"]:
        found.append(f"the base model {new['name']} was in {old['dtype']} and is now in {new['dtype']}")
    elif old["weights"] != new["weights"]:
        found.append(f"the base model {new['name']} has other weights")
    for key, was, is_ in differences(old["config"], new["config"]):
        found.append(f"the base model's {key} was {was} and is now {is_}")
    # The rows' tokens include the effect of a chat template. Older versions kept no digests of the tokenizer.
    for part in other_parts(old.get("tokenizer", {}), new["tokenizer"]):
        if part != "chat template":
            found.append(f"the tokenizer of the base model has another {part}")
    return found


def other_versions(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the changed versions of the code."""
    old, new = before["code"], now["code"]
    return [f"{key} was {old[key]} and is now {new[key]}" for key in new if key in old and old[key] != new[key]]
