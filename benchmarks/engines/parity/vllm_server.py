"""The answers of vLLM's OpenAI server over HTTP, to requests that the client helpers build."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.engines.parity.engine import arguments, environment, settings
from benchmarks.ports import free_port
from softprompts.export.prompt_embeds import request_body
from softprompts.export.vocabulary import ids_of, read_tasks, request_text, tokens_of

from safetensors.torch import load_file
from transformers import AutoTokenizer

CLIENTS = 8
STRAY = 16  # tokens of another task in a text; split into text, each is about fifteen tokens
PATIENCE = 900  # seconds until the server is ready


def serving(folder: Path, form: str, python: str) -> AbstractContextManager[str]:
    """Within this context vLLM serves a form in float32; yields the address of its API."""
    own = {"served_model_name": form, "host": "127.0.0.1", "port": (port := free_port())}
    command = [python, "-m", "vllm.entrypoints.openai.api_server"]
    given = arguments(settings(folder, form, "float32") | own)
    return running([*command, *given], port, folder / f"server_{form}.log", environment())


@contextmanager
def running(command: list[str], port: int, log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run a server within this context; yield the address of its OpenAI API.

    Raises:
        RuntimeError: the server does not become healthy.
    """
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        try:
            _wait_until_up(process, f"http://127.0.0.1:{port}/health", file.name)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(60)


def _wait_until_up(process: subprocess.Popen[bytes], health: str, log: str) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(health, timeout=5).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not start; see {log}") from None
            time.sleep(2)
        else:
            return


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send a request, and return the answer; raise the server's errors."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        read: dict[str, Any] = json.load(answer)
        return read


def server_answers(folder: Path, form: str, url: str) -> dict[str, list[list[int]]]:
    """Return the answers to all requests of a form, several clients at a time."""
    requests = json.loads((folder / "requests.json").read_text(encoding="utf-8"))[form]
    new_tokens = json.loads((folder / "rows.json").read_text(encoding="utf-8"))["new_tokens"]
    common = {"temperature": 0, "max_tokens": new_tokens, "return_token_ids": True}
    tensors = load_file(folder / "tensors.safetensors")

    def ask(request: dict[str, Any]) -> list[int]:
        if "tensor" in request:
            body = request_body(form, tensors[request["tensor"]], **common)
        else:
            body = {"model": form, "prompt": request["text"], "add_special_tokens": False} | common
        ids: list[int] = post(f"{url}/completions", body)["choices"][0]["token_ids"]
        return ids

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(ask, requests))
    found: dict[str, list[list[int]]] = {}
    for request, answer in zip(requests, answers, strict=True):
        found.setdefault(request["adapter"], []).append(answer)
    return found


def crossings(folder: Path, url: str) -> dict[str, int]:
    """Send texts that contain another task's tokens; return how many of these the server reads in each text.

    The requests use `request_text`, the chat template with its argument `task`, or neither. The last way shows the
    effect that the helpers prevent.
    """
    place = folder / "exports" / "vocabulary"
    tokenizer, readings = AutoTokenizer.from_pretrained(place), read_tasks(place)
    own, other = list(readings)[:2]
    tokens = tokens_of(other, readings[other].num_virtual_tokens)[:STRAY]
    text, ids = f"A film. {''.join(tokens)} Good.", set(ids_of(tokenizer, tokens))
    bare = "".join(tokens_of(own, readings[own].num_virtual_tokens)) + text
    common = {"model": "vocabulary", "temperature": 0, "max_tokens": 1, "return_token_ids": True}
    read = {}
    for name, prompt in (("request_text", request_text(own, readings[own], tokenizer, text)), ("no helper", bare)):
        body = common | {"prompt": prompt, "add_special_tokens": False}
        read[name] = post(f"{url}/completions", body)["choices"][0]["prompt_token_ids"]
    chat = common | {"messages": [{"role": "user", "content": text}], "chat_template_kwargs": {"task": own}}
    read["chat template"] = post(f"{url}/chat/completions", chat)["prompt_token_ids"]
    return {name: sum(each in ids for each in found) for name, found in read.items()}
