"""The sides in this project's environment: stock PEFT, the baked model in transformers, and this project's server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.engines.parity import vllm_server
from benchmarks.engines.peft_answers import answer
from benchmarks.ports import free_port

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

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
    """Return the answers of the baked model, loaded and run with transformers alone."""
    place = folder / "exports" / "vocabulary"
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    found: Answers = {}
    for request in json.loads((folder / "requests.json").read_text(encoding="utf-8"))["vocabulary"]:
        ids = tokenizer(request["text"], add_special_tokens=False).input_ids
        found.setdefault(request["adapter"], []).append(answer(model, ids, record["new_tokens"])["answer"])
    return found


def own_server(folder: Path, record: Mapping[str, Any]) -> Answers:
    """Return the answers of `recipes/serve.py` over HTTP, to several clients; the adapters take turns."""
    names = {name: name.replace("/", ".") for name in record["adapters"]}
    adapters = {names[name]: rows["folder"] for name, rows in record["adapters"].items()}
    command = [sys.executable, "recipes/serve.py", "--serve.adapters", json.dumps(adapters)]
    command += ["--model.name_or_path", record["model"], "--model.dtype", "float32"]
    rows = [
        (name, text)
        for texts in zip(*(one["texts"] for one in record["adapters"].values()), strict=True)
        for name, text in zip(names, texts, strict=True)
    ]
    with vllm_server.running(
        [*command, "--serve.port", str(port := free_port())], port, folder / "own_server.log", os.environ
    ) as url:

        def ask(row: tuple[str, str]) -> list[int]:
            body = {"model": names[row[0]], "prompt": row[1], "max_tokens": record["new_tokens"]}
            reply = vllm_server.post(f"{url}/completions", body | {"return_token_ids": True})
            ids: list[int] = reply["choices"][0]["token_ids"]
            return ids

        with ThreadPoolExecutor(vllm_server.CLIENTS) as clients:
            answers = list(clients.map(ask, rows))
    found: Answers = {name: [] for name in names}
    for (name, _), answer_ids in zip(rows, answers, strict=True):
        found[name].append(answer_ids)
    return found
