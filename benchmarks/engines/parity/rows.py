"""The rows that all sides answer, the exports for them, and the requests of a client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softprompts.adapters.configs import read_config
from softprompts.adapters.loading import run_settings
from softprompts.config.sections import ModelConfig
from softprompts.config.tools import AdapterConfig, ExportConfig, InputConfig
from softprompts.export.forms import write_export
from softprompts.export.kv_cache.prefixes import read_prefixes
from softprompts.export.prompt_embeds import prompt_tensor, read_soft_prompt
from softprompts.export.sources import sources_of
from softprompts.export.vocabulary import read_tasks, request_text
from softprompts.models.bundled import resolve
from softprompts.system.files import write_atomically

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = "bundled:smollm2-135m-instruct"
ROWS = 16  # of each task's validation split
NEW_TOKENS = 24
FORMS = {"vocabulary": "prompt_tuning", "prompt_embeds": "prompt_tuning", "kv_cache": "prefix_tuning"}


def prepare(folder: Path, adapters: Mapping[str, str]) -> dict[str, Any]:
    """Return the rows for all sides, by adapter `TASK/METHOD`; the first call writes them to rows.json."""
    file = folder / "rows.json"
    if file.is_file():
        made: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return made
    model = resolve(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows: dict[str, Any] = {}
    for name, path in adapters.items():
        settings = run_settings(path)
        config = ExportConfig("peft", "unused", {"task": path}, rows=ROWS)
        (source,) = sources_of(AdapterConfig(), config, InputConfig())
        adapter: Any = read_config(source.folder)
        texts = [row.prompt for row in source.task.splits["test"]]
        rows[name] = {
            "folder": str(source.folder),
            "steps": settings["training"]["steps"],
            "virtual_tokens": adapter.num_virtual_tokens,
            "texts": texts,
            "ids": [tokenizer(text).input_ids for text in texts],
        }
    record = {"model": model, "new_tokens": NEW_TOKENS, "adapters": rows}
    write_atomically(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def export_all(folder: Path, adapters: Mapping[str, str]) -> None:
    """Write each missing form, for all tasks together; like any export, it compares a few rows."""
    for form, method in FORMS.items():
        place = folder / "exports" / form
        if place.is_dir():
            continue
        own = {name.split("/")[0]: path for name, path in adapters.items() if name.endswith(method)}
        config = ExportConfig(form, str(place), own, rows=2, max_new_tokens=8)  # type: ignore[arg-type]
        lines = write_export(ModelConfig(MODEL, dtype="float32"), AdapterConfig(), config, InputConfig())
        print(*(f"{form}: {line}" for line in lines), sep="\n", flush=True)


def build_requests(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the requests of each form to requests.json, and the tensors of prompt_embeds next to it.

    A client sends a text for `vocabulary`, both a text and token ids for `kv_cache`, and the name of a tensor for
    `prompt_embeds`. Tasks take turns.
    """
    if (folder / "requests.json").is_file():
        return
    exports, model = folder / "exports", record["model"]
    baked, plain = (AutoTokenizer.from_pretrained(place) for place in (exports / "vocabulary", model))
    readings = read_tasks(exports / "vocabulary")
    table = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).get_input_embeddings()
    prefixes = {prefix.name: prefix for prefix in read_prefixes(exports / "kv_cache")}
    requests: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    tensors = {}
    for number in range(ROWS):
        for name, rows in record["adapters"].items():
            task, method = name.split("/")
            about, text = {"adapter": name, "row": number}, rows["texts"][number]
            if method == "prefix_tuning":
                prefix = prefixes[task]
                ids = [*prefix.placeholder_ids, *rows["ids"][number]]
                both = {"text": (prefix.placeholder_text or "") + text, "ids": ids}
                requests["kv_cache"].append(about | both)
                continue
            requests["vocabulary"].append(about | {"text": request_text(task, readings[task], baked, text)})
            soft_prompt, key = read_soft_prompt(exports / "prompt_embeds", task), f"{name}/{number}"
            tensors[key] = prompt_tensor(soft_prompt, soft_prompt.reading.ids_of(plain, text), table)
            requests["prompt_embeds"].append(about | {"tensor": key})
    save_file(tensors, folder / "tensors.safetensors")
    write_atomically(folder / "requests.json", json.dumps(requests, indent=1, ensure_ascii=False) + "\n")
