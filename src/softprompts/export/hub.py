"""Write a folder for the Hugging Face Hub: an adapter, its model card, its licence and a runnable example."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, replace
from pathlib import Path

from softprompts.config.paths import ADAPTER
from softprompts.errors import UserError
from softprompts.export.sources import Job, Source, as_trained
from softprompts.export.stock import about_base, portable_base, revision_of, write_adapter
from softprompts.models.bundled import BUNDLED, PREFIX
from softprompts.models.identity.base_model import read_record, write_record
from softprompts.models.loading import AUTO, Kind, kind_of, load_model_config, model_path
from softprompts.reports.run import PIPELINES
from softprompts.reports.tables import markdown_table
from softprompts.runs.folders import RESULT_FILE
from softprompts.runs.record import Result, load_result
from softprompts.system.files import read_bytes
from softprompts.tasks.task import Task

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

STAND_IN = "An example text."  # rows of the data may be private
WRITES = """inputs = {inputs}
ids, mask = inputs["input_ids"], inputs["attention_mask"]
output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=32, do_sample=False)
print(tokenizer.decode(output[0{answer}], skip_special_tokens=True))"""
CHOOSES = """inputs = {inputs}
labels = {labels}
logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
print(labels[logits.argmax().item()])"""


@dataclass(frozen=True)
class Licence:
    """A licence: the Hub's name for it, and its text."""

    name: str
    text: bytes


def write_hub(job: Job, folder: Path) -> list[str]:
    """Write an adapter for the Hub, compare it with the original, and return lines about the result and the upload.

    Raises:
        UserError: there are several adapters or no licence; the Hub refuses the name; `write_adapter` refuses the
            adapter.
    """
    if len(job.sources) > 1:
        raise UserError("export.adapters: export.to hub supports one adapter; name it in adapter.path")
    (source,) = job.sources
    repository = job.config.repo_id or Path(job.config.output_dir).resolve().name
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        close = re.sub(r"[^A-Za-z0-9]+", "-", repository).strip("-") or "adapter"
        why = str(error).splitlines()[0]
        raise UserError(f'export.repo_id: {why} Take "user/{close}", for example') from None
    licence, base = _licence(job), portable_base(job)
    result, task = _result(source.folder), as_trained(source)
    line = write_adapter(job, source, folder, base)
    record = read_record(source.folder)
    if record.base:
        write_record(folder, replace(record.base, name=base), record.choices)
    kind, revision = kind_of(load_model_config(job.model)), revision_of(job)
    snippet = example(task, kind, base, repository, record.choices, revision)
    (folder / "LICENSE").write_bytes(licence.text)
    (folder / "example.py").write_text(snippet, encoding="utf-8")
    card = _card(job, replace(source, task=task), result, base, repository, licence, snippet)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return [line, f"to upload it: hf upload {repository} {job.config.output_dir}"]


def _licence(job: Job) -> Licence:
    """Return the licence of the adapter, which its owner chooses. The text of a bundled base model's is known."""
    config, model = job.config, job.model.name_or_path
    bundled = BUNDLED.get(model.removeprefix(PREFIX)) if model.startswith(PREFIX) else None
    own = bundled.license.lower() if bundled else None
    if config.license is None:
        example = f"{own}, the base model's" if own else "apache-2.0"
        raise UserError(f"export.license: name the adapter's licence as the Hub does, for example {example}")
    if config.license_file:
        return Licence(config.license, read_bytes(Path(config.license_file)))
    if config.license.lower() != own:
        raise UserError(f"export.license_file: name a file with the text of {config.license}")
    return Licence(config.license, read_bytes(Path(model_path(job.model)) / "LICENSE"))


def example(
    task: Task, kind: Kind, base: str, repository: str, choices: list[str] | None, revision: str | None = None
) -> str:
    """Return a program that loads base model and adapter, and prints the prediction for one text.

    Args:
        task: the task, with its prompt template.
        kind: kind of the base model.
        base: name of the base model.
        repository: name of the adapter's repository.
        choices: choices of an encoder's outputs; None if the base model's config has them.
        revision: branch, tag or commit of the base model; None for its newest.
    """
    auto, config = AUTO[kind].__name__, task.config
    version = f", revision={revision!r}" if revision else ""
    more = f", num_labels={len(choices)}" if kind == "encoder" and choices else ""
    prompt = filled(config.prompt)
    inputs, given = 'tokenizer(prompt, return_tensors="pt")', f"prompt = {prompt!r}"
    if config.chat:
        messages = [{"role": "system", "content": config.system}] if config.system else []
        messages.append({"role": "user", "content": prompt})
        inputs = (
            "tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n)'
        )
        given = f"messages = {messages!r}"
    labels = repr(choices) if choices else "base.config.id2label"
    body = CHOOSES.format(inputs=inputs, labels=labels) if kind == "encoder" else ""
    body = body or WRITES.format(inputs=inputs, answer=", ids.shape[1] :" if kind == "decoder" else "")
    return f"""from peft import PeftModel
from transformers import {auto}, AutoTokenizer

base = {auto}.from_pretrained({base!r}{version}{more})
tokenizer = AutoTokenizer.from_pretrained({base!r}{version})
model = PeftModel.from_pretrained(base, {repository!r}).eval()

# The prompt template: {config.prompt!r}
{given}
{body}
"""


def filled(template: str) -> str:
    """Return a prompt template with a stand-in for each column."""
    pieces = string.Formatter().parse(template)
    return "".join(literal + (STAND_IN if name is not None else "") for literal, name, *_ in pieces)


def _result(folder: Path) -> Result | None:
    """Return the record of the run, if its folder contains only this adapter; else None."""
    file = folder.parent / RESULT_FILE
    return load_result(file) if folder.name == ADAPTER and file.is_file() else None


def _card(
    job: Job, source: Source, result: Result | None, base: str, repository: str, licence: Licence, snippet: str
) -> str:
    task, kind = source.task, kind_of(load_model_config(job.model))
    name = repository.rpartition("/")[2]
    scores = [
        EvalResult(
            task_type=PIPELINES[kind],
            dataset_type=source.name,
            dataset_name=source.name,
            metric_type=key,
            metric_value=round(interval.value, 4),
        )
        for key, interval in (result.metrics if result else {}).items()
    ]
    head = ModelCardData(
        base_model=base,
        library_name="peft",
        license=licence.name,
        pipeline_tag=PIPELINES[kind],
        tags=["peft", "soft-prompts", source.kind.lower().replace("_", "-")],
        model_name=name if scores else None,
        eval_results=scores or None,
    )
    wording = f"- prompt template: `{task.config.prompt!r}`" + (
        ", within the chat template" if task.config.chat else ""
    )
    at = f", revision `{revision}`" if (revision := revision_of(job)) else ""
    choices = f"\n- choices: {', '.join(f'`{choice!r}`' for choice in task.choices)}" if task.choices else ""
    return f"""---
{head.to_yaml()}
---

# {name}

An adapter for [{base}](https://huggingface.co/{base}){at}, of PEFT's type {source.kind}. It was trained on the task
{source.name}. PEFT loads it without other code.{f" {about}" if (about := about_base(job)) else ""}

{wording}{choices}
- licence of the adapter: {licence.name} (text in `LICENSE`); of the training data: {task.licence}

## Use

```python
{snippet}```

The same program is in `example.py`.

## Results

{_scores(result)}
"""


def _scores(result: Result | None) -> str:
    if result is None:
        return "No record of an evaluation came with this adapter."
    rows = [[key, f"{x.value:.4f}", f"{x.low:.4f} to {x.high:.4f}", str(x.rows)] for key, x in result.metrics.items()]
    split = result.settings.get("evaluation", {}).get("split", "test")
    table = markdown_table(["metric", split, "95 % interval", "rows"], rows)
    return f"{table}\n\nOne run with seed {result.seed}. The intervals do not cover variation between seeds."
