"""Write stock PEFT folders whose base model's name is valid on other machines."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompts.adapters.checks import WEIGHTS
from softprompts.adapters.configs import CONFIG, read_config
from softprompts.adapters.loading import load_adapter, virtual_tokens
from softprompts.adapters.saving import folded
from softprompts.encoding.documents import Document
from softprompts.encoding.tokenization import encode
from softprompts.engine.padded import stock_forward
from softprompts.errors import UserError, notice
from softprompts.evaluation.interactive import own_flags
from softprompts.export.agreement import check_share, difference_of, task_arguments, task_number
from softprompts.export.sources import Job, Source, naming
from softprompts.models.bundled import PREFIX, lookup
from softprompts.models.identity.facts import facts_of
from softprompts.models.loading import default_device, input_spec, load_base_model

import torch
from peft import PeftModel


def write_stock(job: Job, folder: Path) -> list[str]:
    """Write each adapter in PEFT's format, compare the logits, and return lines about it.

    A single adapter is written into the folder itself, several into subfolders by task name.

    Raises:
        UserError: a local base model has no name; `load_adapter` refuses an adapter; a check fails.
    """
    name = portable_base(job)
    several = len(job.sources) > 1
    if about := about_base(job):
        notice(about)
    return [write_adapter(job, source, folder / source.name if several else folder, name) for source in job.sources]


def portable_base(job: Job) -> str:
    """Return the base model's name for the files of an export.

    Raises:
        UserError: the base model is a folder of this machine, and `export.base` does not name it.
    """
    given = job.model.name_or_path
    if job.config.base:
        return job.config.base
    if given.startswith(PREFIX):
        return lookup(given).source
    if Path(given).expanduser().exists():
        raise UserError(f"export.base: {given} is a folder of this machine; name the base model by its Hub id")
    return given


def revision_of(job: Job) -> str | None:
    """Return the base model's branch, tag or commit for the files of an export; None for a bundled or local model."""
    return job.model.revision if portable_base(job) == job.model.name_or_path else None


def about_base(job: Job) -> str:
    """Return a note that a bundled base model differs from the original; empty for others."""
    if job.config.base or not job.model.name_or_path.startswith(PREFIX):
        return ""
    bundled = lookup(job.model.name_or_path)
    return (
        f"The adapter was trained on weights of {bundled.source} that were dequantised from {bundled.gguf}. "
        "Its scores on the original weights may differ."
    )


def write_adapter(job: Job, source: Source, folder: Path, base_name: str) -> str:
    """Write one adapter, compare its logits with those of the original in stock PEFT, and return a line about it.

    Adapters of a prompt encoder, and tasks of multitask prompt tuning, become plain prompt tuning.

    Args:
        job: the export.
        source: the adapter.
        folder: output folder, which is made if it is missing.
        base_name: name of the base model in the adapter's config.

    Raises:
        UserError: `load_adapter` refuses the adapter; a check fails.
    """
    with naming(source), own_flags():
        base, tokenizer = load_base_model(job.model, default_device(), source.task.choices)
        tuned: Any = load_adapter(base, source.adapter)
        spec = input_spec(base, virtual_tokens(tuned))
        data = encode(source.task, tokenizer, spec, needs_end=False)
    documents = [example.document for example in data.test]
    number = task_number(tuned, source)
    expected = _logits(tuned, documents, **task_arguments(tuned, number))
    plain = folded(tuned, number)
    with warnings.catch_warnings(action="ignore"):  # PEFT warns that it saves changed embeddings
        plain.save_pretrained(str(folder), safe_serialization=True)
    for file in folder.iterdir():
        if file.name not in (CONFIG, WEIGHTS):  # an empty model card
            file.unlink()
    settings: Any = read_config(folder)
    settings.base_model_name_or_path, settings.revision = base_name, revision_of(job)
    if getattr(settings, "tokenizer_name_or_path", None):
        settings.tokenizer_name_or_path = base_name
    settings.save_pretrained(str(folder))
    outputs = facts_of(base).choice_outputs
    del base, tuned, plain
    again, _ = load_base_model(job.model, default_device(), source.task.choices)
    facts_of(again).choice_outputs = outputs  # the adapter's order may differ from the task's
    found = _logits(PeftModel.from_pretrained(again, str(folder)).eval(), documents)
    difference, share = difference_of(list(zip(found, expected, strict=True)))
    check_share(source, job.config.to, share, again.dtype)
    return (
        f"{source.name}: logits differ from those of {source.folder} by at most {difference:.1e} on {len(found)} rows"
    )


@torch.inference_mode()
def _logits(model: Any, documents: Sequence[Document], **arguments: Any) -> list[torch.Tensor]:
    """Return the logits at the targets of each document, by stock PEFT, one document at a time."""
    device = next(model.parameters()).device
    return [stock_forward(model, [document], device, **arguments).logits.cpu() for document in documents]
