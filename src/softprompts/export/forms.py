"""The forms of an export: each writes a new folder and compares it with stock PEFT before the folder appears."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from softprompts.config.sections import ModelConfig
from softprompts.config.tools import AdapterConfig, ExportConfig, InputConfig
from softprompts.export.hub import write_hub
from softprompts.export.kv_cache.writer import write_kv_cache
from softprompts.export.prompt_embeds import write_prompt_embeds
from softprompts.export.sources import Job, sources_of
from softprompts.export.stock import write_stock
from softprompts.export.vocabulary import write_vocabulary
from softprompts.system.files import building, check_new

# Writes into an empty folder, and returns lines about what was compared.
Form = Callable[[Job, Path], list[str]]
FORMS: Mapping[str, Form] = {
    "peft": write_stock,
    "vocabulary": write_vocabulary,
    "prompt_embeds": write_prompt_embeds,
    "kv_cache": write_kv_cache,
    "hub": write_hub,
}


def write_export(model: ModelConfig, adapter: AdapterConfig, export: ExportConfig, texts: InputConfig) -> list[str]:
    """Write an export, and return lines that report what was compared and what to do next.

    Args:
        model: the base model, and the type that it is loaded in.
        adapter: the adapter, if there is one only; how all of them are loaded.
        export: the form and where to write it.
        texts: what to compare on in place of validation rows.

    Raises:
        UserError: a folder that exists; no adapter; one that the form does not take; a check that fails.
    """
    folder = Path(export.output_dir)
    check_new("export.output_dir", folder)
    job = Job(model, export, sources_of(adapter, export, texts))
    with building(folder) as temporary:
        lines = FORMS[export.to](job, temporary)
        public = next(temporary.rglob("*.json"))
        for file in temporary.rglob("*.safetensors"):  # written for their owner alone, and a server may be another user
            shutil.copymode(public, file)
    return lines
