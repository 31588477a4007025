"""Answers over HTTP: OpenAI's own client, Hugging Face's, plain HTTP; chats, seeds, log-probabilities, stop texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from made_server import SETTINGS, TEXT, Served, expected, make_run, serving
from softprompts.config.tools import ServeConfig
from softprompts.encoding.endings import before

import openai
import pytest
from huggingface_hub import InferenceClient


def test_openais_client_gets_what_stock_peft_writes(served: Served, tiny_model: Path) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["base", "one", "sentiment", "two"]
    assert client.models.retrieve("two").id == "two"
    for name, seed in (("base", None), ("one", 0), ("two", 1)):
        wanted = expected(tiny_model, seed, TEXT, 12)
        whole = client.completions.create(model=name, prompt=TEXT, max_tokens=12)
        assert (whole.choices[0].text, whole.choices[0].finish_reason, whole.model) == (wanted, "length", name)
        assert whole.usage is not None
        assert (whole.usage.completion_tokens, whole.usage.total_tokens) == (12, 12 + whole.usage.prompt_tokens)
        parts = list(client.completions.create(model=name, prompt=TEXT, max_tokens=12, stream=True))
        assert "".join(part.choices[0].text for part in parts) == wanted
        assert len(parts) > 6, "token by token"
        assert [part.choices[0].finish_reason for part in parts[-2:]] == [None, "length"]


def test_a_chat_fills_the_template_of_its_run(served: Served, tiny_model: Path) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    messages: Any = [{"role": "user", "content": TEXT}]
    wanted = expected(tiny_model, 2, f"{TEXT}\nSentiment:", 5)
    whole = client.chat.completions.create(model="sentiment", messages=messages)
    assert whole.choices[0].message.content == wanted
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 5, "the run's own length"
    parts = list(
        client.chat.completions.create(
            model="sentiment", messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == wanted
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].usage == whole.usage
    columns = served.post("/v1/completions", model="sentiment", columns={"text": TEXT}).json()
    assert columns["choices"][0]["text"] == wanted
    in_parts: Any = [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]
    again = client.chat.completions.create(model="sentiment", messages=in_parts, max_completion_tokens=5)
    assert again.choices[0].message.content == wanted


def test_hugging_faces_client_reads_a_chat(served: Served, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the server is on this machine
    client = InferenceClient(base_url=f"{served.url}/v1", api_key="none")
    said = [{"role": "user", "content": TEXT}]
    whole = client.chat_completion(said, model="sentiment", max_tokens=5)
    wanted = expected(tiny_model, 2, f"{TEXT}\nSentiment:", 5)
    assert whole.choices[0].message.content == wanted
    parts = client.chat_completion(said, model="sentiment", max_tokens=5, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == wanted


def test_several_prompts_and_answers_keep_their_order(served: Served) -> None:
    prompts = [TEXT, "a plot", "the the the"]
    alone = [served.complete("one", prompt, max_tokens=6)["choices"][0]["text"] for prompt in prompts]
    together = served.complete("one", prompts, max_tokens=6, n=2)["choices"]
    assert [choice["text"] for choice in together] == [text for text in alone for _ in range(2)]
    assert [choice["index"] for choice in together] == list(range(6))
    ids = served.service.prompts.raw_ids(TEXT)
    assert served.complete("one", ids, max_tokens=6)["choices"][0]["text"] == alone[0]
    assert served.complete("one", [ids], max_tokens=6)["choices"][0]["text"] == alone[0]


def test_a_seed_draws_the_same_again(served: Served) -> None:
    def drawn(**more: Any) -> list[str]:
        reply = served.complete("one", TEXT, max_tokens=12, temperature=1.5, n=2, **more)
        return [choice["text"] for choice in reply["choices"]]

    first = drawn(seed=4)
    assert drawn(seed=4) == first
    assert first[0] != first[1]
    assert drawn(seed=5) != first
    assert drawn() != drawn(), "without a seed each request has its own"


def test_log_probabilities_add_up(served: Served) -> None:
    reply = served.complete("one", TEXT, max_tokens=5, logprobs=3)["choices"][0]
    found = reply["logprobs"]
    assert "".join(found["tokens"]) == reply["text"]
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert "\N{REPLACEMENT CHARACTER}" in token or reply["text"].startswith(token, offset)
    for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert max(top.values()) == top[token] == logprob < 0, "greedy takes the likeliest"
        assert 1 <= len(top) <= 3  # two tokens may have the same text
    chat = served.post(
        "/v1/chat/completions",
        model="sentiment",
        messages=[{"role": "user", "content": TEXT}],
        logprobs=True,
        top_logprobs=2,
    ).json()
    entries = chat["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == chat["choices"][0]["message"]["content"]
    assert all(entry["top_logprobs"][0]["logprob"] == entry["logprob"] for entry in entries)
    with served.http.stream(
        "POST", "/v1/completions", json={"model": "one", "prompt": TEXT, "max_tokens": 5, "logprobs": 0, "stream": True}
    ) as stream:
        parts = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    told = [part["choices"][0]["logprobs"] for part in parts]
    assert [t for one in told for t in one["tokens"]] == found["tokens"]
    assert [t for one in told for t in one["text_offset"]] == found["text_offset"]


def test_a_stop_text_ends_an_answer_whole_or_streamed(served: Served) -> None:
    whole = served.complete("one", TEXT, max_tokens=20)["choices"][0]["text"]
    middle = len(whole) // 2
    for stop in (whole[middle : middle + 3], whole[middle : middle + 9]):
        wanted = before(whole, [stop])
        reply = served.complete("one", TEXT, max_tokens=20, stop=[stop, "never"], logprobs=0)["choices"][0]
        assert (reply["text"], reply["finish_reason"]) == (wanted, "stop")
        assert all(offset < len(wanted) for offset in reply["logprobs"]["text_offset"])
        body = {"model": "one", "prompt": TEXT, "max_tokens": 20, "stop": stop, "stream": True}
        with served.http.stream("POST", "/v1/completions", json=body) as stream:
            lines = [line for line in stream.iter_lines() if line.startswith("data: {")]
        parts = [json.loads(line[6:])["choices"][0] for line in lines]
        assert "".join(part["text"] for part in parts) == wanted
        assert parts[-1]["finish_reason"] == "stop"


def test_a_template_of_several_columns_is_filled_by_columns(tiny_model: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "task": {"prompt": "{text} {cast[en]}\nSentiment:", "target": " {label}"}}
    config = ServeConfig(adapters={"pair": str(make_run(tiny_model, tmp_path, 2, settings))})
    with serving(tiny_model, config) as served:
        assert served.http.get("/v1/models/pair").json()["columns"] == ["text", "cast[en]"]
        columns = {"text": TEXT, "cast": {"en": "dull"}}
        whole = served.post("/v1/completions", model="pair", columns=columns).json()["choices"][0]["text"]
        assert whole == expected(tiny_model, 2, f"{TEXT} dull\nSentiment:", 5)
        chat = served.post("/v1/chat/completions", model="pair", messages=[{"role": "user", "content": TEXT}])
        assert "pair reads the columns text, cast[en]" in chat.json()["error"]["message"]


def test_the_ids_of_tokens_are_told_as_vllm_tells_them(served: Served) -> None:
    tokenizer = served.service.tasks.tokenizer
    reply = served.complete("one", [TEXT, "a plot"], max_tokens=6, n=2, return_token_ids=True)
    for choice, prompt in zip(reply["choices"], [TEXT, TEXT, "a plot", "a plot"], strict=True):
        assert choice["prompt_token_ids"] == tokenizer(prompt).input_ids
        assert (len(choice["token_ids"]), tokenizer.decode(choice["token_ids"])) == (6, choice["text"])
    body = {"model": "one", "prompt": TEXT, "max_tokens": 6, "return_token_ids": True}
    parts = [event["choices"][0] for event in served.streamed("/v1/completions", **body)]
    assert [number for part in parts for number in part["token_ids"]] == reply["choices"][0]["token_ids"]
    assert ["prompt_token_ids" in part for part in parts] == [True] + [False] * (len(parts) - 1)
    chat: dict[str, Any] = {"model": "sentiment", "messages": [{"role": "user", "content": TEXT}]}
    whole = served.post("/v1/chat/completions", **chat, return_token_ids=True).json()
    assert whole["prompt_token_ids"] == tokenizer(f"{TEXT}\nSentiment:").input_ids
    assert tokenizer.decode(whole["choices"][0]["token_ids"]) == whole["choices"][0]["message"]["content"]
    events = served.streamed("/v1/chat/completions", **chat, return_token_ids=True)
    assert events[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert [n for event in events for n in event["choices"][0]["token_ids"]] == whole["choices"][0]["token_ids"]
    assert "token_ids" not in served.complete("one", TEXT, max_tokens=2)["choices"][0]


def test_the_largest_seed_has_room_for_several_answers(served: Served) -> None:
    for seed in (2**63 - 1, -(2**63)):
        assert len(served.complete("one", TEXT, max_tokens=2, temperature=1.0, seed=seed, n=2)["choices"]) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_read_is_an_error_and_not_silence(
    served: Served, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise ValueError("no text")

    with monkeypatch.context() as broken:
        broken.setattr(served.service.tasks.tokenizer, "decode", fail)
        body = {"model": "one", "prompt": TEXT, "max_tokens": 2, "stream": stream}
        reply = served.http.post("/v1/completions", json=body, timeout=10)
    assert reply.status_code == (200 if stream else 500)
    assert "the server failed; see its log" in reply.text
    assert served.complete("one", TEXT, max_tokens=2)
