"""Write an export in one of several forms. The new folder appears only after the comparison with stock PEFT."""

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
from softprompts.models.loading import refuse_forward
from softprompts.system.files import building, check_new

# A function that writes into an empty folder, and returns lines about its comparison.
Form = Callable[[Job, Path], list[str]]
FORMS: Mapping[str, Form] = {
    "peft": write_stock,
    "vocabulary": write_vocabulary,
    "prompt_embeds": write_prompt_embeds,
    "kv_cache": write_kv_cache,
    "hub": write_hub,
}


def write_export(model: ModelConfig, adapter: AdapterConfig, export: ExportConfig, texts: InputConfig) -> list[str]:
    """Write an export, and return lines about the comparison and the next steps.

    Args:
        model: the base model, and its data type.
        adapter: the adapter, if there is only one; settings for loading all of them.
        export: the form and the output folder.
        texts: texts for the comparison in place of validation rows.

    Raises:
        UserError: the folder exists; an adapter is missing or does not suit the form; a check fails.
    """
    refuse_forward(model, "recipes/export.py")
    folder = Path(export.output_dir)
    check_new("export.output_dir", folder)
    job = Job(model, export, sources_of(adapter, export, texts))
    with building(folder) as temporary:
        lines = FORMS[export.to](job, temporary)
        public = next(temporary.rglob("*.json"))
        for file in temporary.rglob("*.safetensors"):  # a server may run as another user than their owner
            shutil.copymode(public, file)
    return lines
