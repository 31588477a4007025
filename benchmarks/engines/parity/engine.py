"""vLLM's settings for each form of an export, for its offline engine and as arguments of its server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def settings(folder: Path, form: str, dtype: str) -> dict[str, Any]:
    """Return the settings of an engine that serves a form of FOLDER's exports."""
    base = json.loads((folder / "rows.json").read_text(encoding="utf-8"))["model"]
    common: dict[str, Any] = {
        "model": str(folder / "exports" / "vocabulary") if form == "vocabulary" else base,
        "dtype": dtype,
        "max_model_len": 1024,
        "max_num_seqs": 16,
        "enforce_eager": True,
        "generation_config": "vllm",
    }
    connector = {
        "kv_connector": "PrefixConnector",
        "kv_connector_module_path": "softprompts.export.kv_cache.vllm_connector",
        "kv_role": "kv_consumer",
        "kv_connector_extra_config": {"prefixes": str(folder / "exports" / "kv_cache")},
    }
    own: dict[str, dict[str, Any]] = {
        "prompt_embeds": {"enable_prompt_embeds": True},
        "kv_cache": {"kv_transfer_config": connector},
    }
    return common | own.get(form, {})


def arguments(values: dict[str, Any]) -> list[str]:
    """Return settings as arguments of `vllm serve`."""
    found = []
    for key, value in values.items():
        found.append(f"--{key.replace('_', '-')}")
        if value is not True:
            found.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return found


def environment() -> dict[str, str]:
    """Return the environment variables of a vLLM process."""
    fixed = {"PYTHONPATH": "src:.", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return os.environ | {"VLLM_CPU_KVCACHE_SPACE": "2"} | fixed
