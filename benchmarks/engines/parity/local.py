"""The sides that need no other environment: stock PEFT, the baked model in transformers, and this project's server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.engines.peft_answers import answer
from softprompts.config.sections import ModelConfig
from softprompts.models.loading import load_base_model
from softprompts.serving.batch import Batch, Row
from softprompts.serving.tasks import Tasks

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

ROWS_AT_ONCE = 8
Answers = dict[str, list[Any]]  # by adapter, of each row


def peft(record: Mapping[str, Any], dtype: str) -> Answers:
    """Return stock PEFT's answers, one row at a time, with the margin of each token."""
    found: Answers = {}
    for name, rows in record["adapters"].items():
        base: Any = AutoModelForCausalLM.from_pretrained(record["model"], dtype=getattr(torch, dtype)).eval()
        tuned = PeftModel.from_pretrained(base, rows["folder"]).eval()
        found[name] = [answer(tuned, ids, record["new_tokens"]) for ids in rows["ids"]]
    return found


def transformers(folder: Path, record: Mapping[str, Any]) -> Answers:
    """Return the answers of the baked model, loaded and asked with transformers alone."""
    place = folder / "exports" / "vocabulary"
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    found: Answers = {}
    for request in json.loads((folder / "requests.json").read_text(encoding="utf-8"))["vocabulary"]:
        ids = tokenizer(request["text"], add_special_tokens=False).input_ids
        found.setdefault(request["adapter"], []).append(answer(model, ids, record["new_tokens"])["answer"])
    return found


def own_server(record: Mapping[str, Any]) -> Answers:
    """Return the answers of this project's continuous batches; rows of all adapters share a batch, and take turns."""
    base, tokenizer = load_base_model(ModelConfig(record["model"], dtype="float32"), torch.device("cpu"))
    tasks = Tasks(base, tokenizer)
    for name, rows in record["adapters"].items():
        tasks.add(name.replace("/", "."), rows["folder"])
    batch = Batch(base, tasks.own_ends)
    found: Answers = {name: [] for name in record["adapters"]}
    waiting = _rows(tasks, record, found)
    ready = True
    while ready or batch.rows:
        joining = [row for _, row in zip(range(ROWS_AT_ONCE - len(batch.rows)), waiting, strict=False)]
        ready = bool(joining)
        batch.join(joining)
        batch.step()
    return {name: [row.written for row in rows] for name, rows in found.items()}


def _rows(tasks: Tasks, record: Mapping[str, Any], found: Answers) -> Iterator[Row]:
    """Yield the rows of all adapters in turn, and keep each in `found`."""
    for number in range(len(next(iter(record["adapters"].values()))["texts"])):
        for name, rows in record["adapters"].items():
            task = tasks.get(name.replace("/", "."))
            ids = tasks.raw_ids(rows["texts"][number])
            row = Row(ids, tasks.front(task), record["new_tokens"])
            found[name].append(row)
            yield row
