"""Refusals in OpenAI's format of errors: faulty requests, invalid bodies, unknown keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import load_base
from made_server import Served, serving
from softprompts.config.tools import ServeConfig
from softprompts.errors import UserError
from softprompts.serving.http.app import make_app
from softprompts.serving.http.faults import read_keys
from softprompts.serving.http.service import load_tasks

import openai
import pytest

FAULTS: list[tuple[str, dict[str, Any], int, str]] = [
    ("completions", {"model": "on", "prompt": "a"}, 404, 'model: "on" (did you mean "one"?)'),
    ("completions", {"model": "one", "prompt": "a", "stream_options": {}}, 400, "stream_options: set stream to true"),
    ("completions", {"model": "one"}, 400, "give either prompt or columns"),
    ("completions", {"model": "one", "prompt": "a", "max_token": 3}, 400, 'unknown field "max_token" (did you mean'),
    ("completions", {"model": "one", "prompt": "a", "max_tokens": 65}, 400, "max_tokens: at most 64 here, found 65"),
    ("completions", {"model": "one", "prompt": "a", "max_tokens": "6"}, 400, "max_tokens"),
    ("completions", {"model": "one", "prompt": "a", "temperature": 3}, 400, "temperature: Input should be less"),
    ("completions", {"model": "one", "prompt": "a", "stop": "b" * 1001}, 400, "stop"),
    ("completions", {"model": "one", "prompt": ""}, 400, "the prompt tokenizes to nothing"),
    ("completions", {"model": "one", "prompt": [10**6]}, 400, "prompt: token id 1000000 is beyond the"),
    ("completions", {"model": "one", "prompt": "good " * 3000}, 400, "do not fit into"),
    ("completions", {"model": "one", "prompt": "a " * 10_001}, 413, ""),
    ("completions", {"model": "sentiment", "columns": {"txt": "a"}}, 400, 'no column "text"'),
    ("chat/completions", {"model": "one", "messages": []}, 400, "messages"),
    ("chat/completions", {"model": "one", "messages": [{"role": "user", "content": "a"}]}, 400, "no chat template"),
    (
        "chat/completions",
        {"model": "sentiment", "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}]},
        400,
        "send one user message, not system, user",
    ),
    ("classify", {"model": "one", "input": "a"}, 400, "choices: one has no choices; give two or more"),
    ("classify", {"model": "one", "input": "a", "choices": ["a", "a"]}, 400, "choices: expected no choice twice"),
    ("outcomes", {"id": "x", "outcome": 1}, 404, 'no answer of a split has the id "x"'),
    ("outcomes", {"id": "a\nb", "outcome": 1}, 404, 'no answer of a split has the id "a\\nb"'),
    ("adapters", {"name": "x", "path": "../elsewhere"}, 403, "path: expected one below serve.folder"),
    ("adapters", {"name": "x", "path": "/etc"}, 403, "path: expected one below serve.folder"),
    ("adapters", {"name": "x", "path": "none\x00"}, 403, "path: expected one below serve.folder"),
    ("adapters", {"name": "x", "path": "missing"}, 400, "no such folder"),
    ("adapters", {"name": "one", "path": "two"}, 400, '"one" is served already'),
    ("adapters", {"name": "x", "path": "n" * 300}, 400, "cannot be read"),
    (
        "chat/completions",
        {"model": "sentiment", "messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 65},
        400,
        "max_completion_tokens: at most 64 here, found 65",
    ),
]


@pytest.mark.parametrize(("path", "body", "status", "text"), FAULTS, ids=lambda value: str(value)[:40])
def test_a_faulty_request_is_one_line_in_openais_shape(
    served: Served, path: str, body: dict[str, Any], status: int, text: str
) -> None:
    reply = served.post(f"/v1/{path}", **body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert text in error["message"]
    assert "\n" not in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", ["", "{", "[" * 9000, "null", "[]", '{"model": NaN}', '"text"', "{}", "\ud83d"[:0]])
def test_a_body_that_is_no_request_is_refused(served: Served, body: str) -> None:
    reply = served.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]
    assert served.http.post("/v1/completions", content="{}", headers={"content-type": "text/plain"}).status_code == 400


def test_a_key_is_asked_for(tiny_model: Path, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n" + "k" * 20 + "\n")
    config = ServeConfig(adapters={"one": str(runs / "one")}, keys_file=str(file))
    with serving(tiny_model, config) as served:
        assert served.http.get("/health").status_code == 200
        for key in ("", "wrong", "k" * 19):
            with pytest.raises(openai.AuthenticationError, match="expected a known API key"):
                openai.OpenAI(base_url=f"{served.url}/v1", api_key=key or "x", max_retries=0).models.list()
        assert served.http.get("/metrics").status_code == 401
        assert served.http.get("/v1/models", headers={"authorization": f"Basic {'k' * 20}"}).status_code == 401
        assert len(openai.OpenAI(base_url=f"{served.url}/v1", api_key="k" * 20).models.list().data) == 2
    cases = (("", "contains no key"), ("short\n", "line 1: expected 16 or more"), (None, "cannot read"))
    for content, message in cases:
        file.write_text(content) if content is not None else file.unlink()
        with pytest.raises(UserError, match=message):
            make_app(load_tasks(*load_base(tiny_model), config), config)


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    for content in ("k" * 20, "# ours\n" + "k" * 20):
        (tmp_path / "keys").write_text(content, encoding="utf-8-sig")
        assert read_keys(str(tmp_path / "keys")) == ["k" * 20]


@pytest.mark.parametrize("key", ["host", "folder", "keys_file", "split_log", "adapters"])
def test_an_empty_text_is_no_setting_of_a_server(key: str) -> None:
    given: dict[str, Any] = {key: {"one": " "} if key == "adapters" else " "}
    name = "adapters.one" if key == "adapters" else key
    with pytest.raises(UserError, match=rf"^serve\.{name}: expected a value, found an empty text"):
        ServeConfig(**given)


HALF = "\ud83d"  # half a character: valid in JSON, but not in UTF-8
DEEP: Any = "a"
for _ in range(400):
    DEEP = [DEEP]
ODD: list[tuple[str, dict[str, Any]]] = [
    ("completions", {"model": HALF, "prompt": "a"}),
    ("completions", {"model": "one", "prompt": HALF}),
    ("completions", {"model": "one", "prompt": "a", HALF: 1}),
    ("completions", {"model": "one", "prompt": "a", "stop": HALF}),
    ("completions", {"model": "one", "prompt": "a", "user": HALF}),
    ("completions", {"model": "sentiment", "columns": {HALF: "a"}}),
    ("completions", {"model": "sentiment", "columns": {"text": HALF}}),
    ("completions", {"model": "sentiment", "columns": {"text": {HALF: 1}}}),
    ("completions", {"model": "sentiment", "columns": {"text": {"a": DEEP}, HALF: DEEP}}),
    ("completions", {"model": "sentiment", "columns": {"text": 10**400}}),
    ("completions", {"model": "one\nadapter", "prompt": "a"}),
    ("chat/completions", {"model": "sentiment", "messages": [{"role": "user", "content": HALF}]}),
    ("chat/completions", {"model": "sentiment", "messages": [{"role": HALF, "content": "a"}]}),
    ("classify", {"model": "sentiment", "input": HALF}),
    ("classify", {"model": "sentiment", "input": "a", "choices": [HALF, "b"]}),
    ("outcomes", {"id": HALF, "outcome": 1}),
    ("adapters", {"name": HALF, "path": "one"}),
    ("adapters", {"name": "x", "path": HALF}),
]


@pytest.mark.parametrize(("path", "body"), ODD, ids=lambda value: ascii(value)[:60])
def test_odd_characters_and_depths_are_no_fault_of_the_server(served: Served, path: str, body: dict[str, Any]) -> None:
    reply = served.http.post(f"/v1/{path}", content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code in (200, 400, 403, 404), reply.text
    if reply.status_code != 200:
        assert "\n" not in reply.json()["error"]["message"]
