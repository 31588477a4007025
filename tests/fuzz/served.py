"""Requests to a server: valid ones with a changed field or damaged bytes, and adapters from damaged folders.

What must come of it: a status below 500 in OpenAI's shape, no traceback in the log, no file read outside of the served
folder, and afterwards the same answers to valid requests as before.
"""

from __future__ import annotations

import copy
import json
import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import files
import mutations
from damages import FREE
from mutations import Tree
from softprompts.config.sections import ModelConfig
from softprompts.config.tools import ServeConfig
from softprompts.models.loading import load_base_model
from softprompts.serving.http.app import make_app
from softprompts.serving.http.service import load_tasks

import torch
from fastapi.testclient import TestClient

REQUESTS = 12  # requests per case
ADAPTERS = ("prompt_tuning", "prefix_tuning", "multitask_prompt_tuning", "second")
TEXT = "the film was good"
VALID: dict[str, Tree] = {
    "/v1/completions": {"model": "prompt_tuning", "prompt": TEXT, "max_tokens": 3},
    "/v1/chat/completions": {
        "model": "prompt_tuning",
        "messages": [{"role": "user", "content": TEXT}],
        "max_tokens": 3,
    },
    "/v1/classify": {"model": "prompt_tuning", "input": [TEXT], "choices": [" positive", " negative"]},
    "/v1/outcomes": {"id": "cmpl-1", "outcome": 1.0},
    "/v1/adapters": {"name": "more", "path": "second"},
}
# Fields that a client may add to any request.
MORE: Tree = {
    "prompt": ["a", "b"],
    "columns": {"text": TEXT, "label": "positive"},
    "temperature": 0.5,
    "top_p": 0.5,
    "n": 2,
    "seed": 1,
    "stop": ["the"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": 2,
    "top_logprobs": 2,
    "user": "me",
    "metadata": {"a": 1},
    "response_format": {"type": "text"},
    "max_completion_tokens": 2,
    "echo": True,
    "best_of": 2,
}
LARGE = [2**31, 2**63, -(2**70), 1e308, "x" * 70_000, [1] * 5000, [[0]] * 65, [2**40], [[-1]], {"a" * 300: 1}]
PATHS = ["..", "../base/llama", "/etc", "second/..", ".", "link", "second\0", "ü", "x" * 5000, "broken", "other"]


def run(number: int, seed: int, folder: Path, stock: Path) -> list[str]:
    """Return the faults of a case: each is its kind, a colon, and its description."""
    rng = random.Random(f"served {seed} {number}")
    torch.set_num_threads(1)
    runs = folder / "runs"
    for name in ADAPTERS:
        shutil.copytree(stock / "runs" / name, runs / name)
    damaged = _damaged_adapter(rng, runs)
    (runs / "link").symlink_to(stock / "runs" / "second")
    base, tokenizer = load_base_model(ModelConfig(str(stock / "base" / "llama"), dtype="float32"), torch.device("cpu"))
    config = ServeConfig(folder=str(runs), max_new_tokens=8, max_body_bytes=100_000, max_batch_rows=4, timeout=20.0)
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append  # type: ignore[method-assign,assignment]
    logging.getLogger().addHandler(handler)
    done = [damaged]
    with TestClient(make_app(load_tasks(base, tokenizer, config), config), raise_server_exceptions=False) as client:
        before = _answers(client)
        faults: list[str] = []
        for _ in range(REQUESTS):
            method, route, body = _request(rng)
            done.append(f"{method} {route} {body[:2000]!r}")
            reply = client.request(method, route, content=body, headers={"content-type": "application/json"})
            faults += _wrong(reply, done[-1])
        if _answers(client) != before:
            faults.append(f"another result: {done}")
    (folder / "case.txt").write_text("\n".join(done), encoding="utf-8", errors="backslashreplace")
    faults += [f"logged an error: {record.getMessage()}: {record.exc_info}" for record in records]
    return faults


def _damaged_adapter(rng: random.Random, runs: Path) -> str:
    """Put a damaged adapter next to the others, in `broken` below a folder that is not served itself."""
    place = runs / "broken"
    shutil.copytree(runs / rng.choice(ADAPTERS[:2]) / "adapter", place)
    file = place / rng.choice(["adapter_config.json", "adapter_model.safetensors"])
    if file.suffix == ".json":
        files.change_json(rng, file, FREE)
    else:
        files.change_tensors(rng, file)
    return f"damaged {file.name}"


def _answers(client: TestClient) -> list[Any]:
    """Return the answers to valid requests, without the fields that differ between requests."""
    found = []
    for route in ("/v1/completions", "/v1/chat/completions", "/v1/classify"):
        for name in ("prompt_tuning", "prefix_tuning", "base"):
            tree = client.post(route, json=VALID[route] | {"model": name}).json()
            found.append({key: value for key, value in tree.items() if key not in ("id", "created", "usage", "error")})
    return found


def _request(rng: random.Random) -> tuple[str, str, bytes]:
    """Draw a method, a route and a body."""
    route = rng.choice(list(VALID))
    tree = copy.deepcopy(VALID[route])
    for name in rng.sample(sorted(MORE), rng.choice([0, 0, 1, 3])):
        tree[name] = MORE[name]
    if "model" in tree:
        tree["model"] = rng.choice([*ADAPTERS, "base", "missing", "link", "broken"])
    if "path" in tree:
        tree |= {"path": rng.choice([tree["path"], *PATHS]), "name": rng.choice(["more", "new", *mutations.TEXTS])}
    for _ in range(rng.choice([0, 1, 1, 2])):
        _change(rng, tree)
    body = json.dumps(tree).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        body = mutations.damage(rng, body)
    if rng.random() < 0.03:
        body = b"[" * 50_000
    name = quote(str(rng.choice([*ADAPTERS, "missing", "..", "a/b", "%", "ü"])), safe="")
    others = [
        ("GET", "/v1/models"),
        ("GET", f"/v1/models/{name}"),
        ("DELETE", f"/v1/adapters/{rng.choice(['more', 'new', name])}"),
    ]
    others += [("GET", "/metrics"), ("PUT", route), ("GET", f"/{name}")]
    kept = [(method, place) for method, place in others if not (method == "DELETE" and place.endswith(ADAPTERS))]
    return (*rng.choice(kept), b"") if rng.random() < 0.15 else ("POST", route, body)


def _change(rng: random.Random, tree: Tree) -> None:
    """Change one field: another name, another type, an odd or a large value."""
    key = rng.choice(sorted(tree)) if tree else "model"
    how = rng.randrange(5)
    if how == 0:
        tree[mutations.misspelt(rng, key)] = tree.pop(key, 1)
    elif how == 1:
        tree.pop(key, None)
    elif how == 2:
        tree[key] = [tree.get(key)]
    else:
        tree[key] = rng.choice(
            [value for value in [*mutations.ODD, *LARGE] if not isinstance(value, dict) or 1 not in value]
        )


def _wrong(reply: Any, asked: str) -> Iterator[str]:
    """Check a reply's status and form."""
    if reply.status_code >= 500:
        yield f"status {reply.status_code}: {reply.text[:300]}: {asked[:600]}"
    elif reply.status_code >= 400 and asked.startswith("POST"):
        try:
            error = reply.json()["error"]
            if not isinstance(error["message"], str) or "\n" in error["message"] or len(error["message"]) > 600:
                yield f"not one line: {error['message'][:700]!r}: {asked[:300]}"
        except (ValueError, KeyError, TypeError):
            yield f"no error in it: {reply.status_code}: {reply.text[:300]}: {asked[:600]}"
    elif "Traceback" in reply.text:
        yield f"traceback: {reply.text[-300:]}: {asked[:600]}"
