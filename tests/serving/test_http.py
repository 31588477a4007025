"""The server as clients see it: OpenAI's own client, Hugging Face's, plain HTTP; limits, errors, disconnects."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import by_hand, load_base, load_tuned
from softprompts.config.tools import ServeConfig
from softprompts.encoding.endings import before
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.metrics.outcomes import compare_outcomes
from softprompts.serving.http.app import make_app
from softprompts.serving.http.service import load_tasks

import httpx
import openai
import pytest
import uvicorn
from huggingface_hub import InferenceClient

TEXT = "the film was good"
SETTINGS = {
    "recipe": "prompt_tuning",
    "task": {
        "prompt": "{text}\nSentiment:",
        "target": " {label}",
        "choices": [" good", " bad", " very bad"],
    },
    "evaluation": {"stop": [], "max_new_tokens": 5},
}


def make_run(tiny_model: Path, folder: Path, seed: int, settings: dict[str, Any] | None = None) -> Path:
    """Write a run's folder: an adapter whose values a seed draws, and the settings that trained it, if any."""
    model, _ = load_tuned(tiny_model, 5, seed)
    model.save_pretrained(str(folder / "adapter"))
    if settings:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


class Served:
    """A running server."""

    def __init__(self, url: str, service: Any) -> None:
        self.url, self.service = url, service
        self.http = httpx.Client(base_url=url, timeout=60)

    def post(self, route: str, /, **body: Any) -> httpx.Response:
        return self.http.post(route, json=body)

    def complete(self, model: str, prompt: Any, **more: Any) -> dict[str, Any]:
        reply = self.post("/v1/completions", model=model, prompt=prompt, **more)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())


@contextmanager
def serving(tiny_model: Path, config: ServeConfig, pause: float = 0.0) -> Iterator[Served]:
    base, tokenizer = load_base(tiny_model)
    app = make_app(load_tasks(base, tokenizer, config), config)
    scheduler = app.state.service.scheduler
    if pause:
        step = scheduler.batch.step
        scheduler.batch.step = lambda: (time.sleep(pause), step())[1]
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", app.state.service)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    make_run(tiny_model, folder / "one", 0)
    make_run(tiny_model, folder / "two", 1)
    make_run(tiny_model, folder / "sentiment", 2, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def served(tiny_model: Path, runs: Path) -> Iterator[Served]:
    with serving(tiny_model, ServeConfig(folder=str(runs), max_new_tokens=64, max_body_bytes=20_000)) as one:
        yield one


def expected(tiny_model: Path, seed: int | None, text: str, most: int) -> str:
    """Return what stock PEFT writes."""
    model, tokenizer = load_base(tiny_model) if seed is None else load_tuned(tiny_model, 5, seed)
    return str(by_hand(Engine(model, tokenizer), tuple(tokenizer(text).input_ids), most))


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
    ids = served.service.tasks.raw_ids(TEXT)
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


def test_choices_are_scored_by_likelihood(served: Served, tiny_model: Path) -> None:
    import torch

    reply = served.post("/v1/classify", model="sentiment", input=[TEXT, "a plot"]).json()
    model, tokenizer = load_tuned(tiny_model, 5, 2)
    for row, text in zip(reply["data"], (TEXT, "a plot"), strict=True):
        prompt = tokenizer(f"{text}\nSentiment:").input_ids
        scores = []
        for choice in (" good", " bad", " very bad"):
            target = tokenizer(choice, add_special_tokens=False).input_ids
            ids = torch.tensor([[*prompt, *target]])
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
            rows = logits[-len(target) - 1 : -1]
            scores.append(sum(rows[k, token].item() for k, token in enumerate(target)))
        assert row["log_likelihoods"] == pytest.approx(scores, abs=1e-4)
        assert sum(row["probs"]) == pytest.approx(1)
        assert row["label"] == row["labels"][scores.index(max(scores))]
    other = served.post("/v1/classify", model="sentiment", columns={"text": TEXT}, choices=["film", "plot"]).json()
    assert other["data"][0]["labels"] == ["film", "plot"]


HOSTILE: list[tuple[str, Any, str]] = [
    ("evaluation", {"stop": [1]}, "evaluation.stop in its run's config.json is no list of texts"),
    ("evaluation", {"stop": [""]}, "evaluation.stop in its run's config.json is no list of texts"),
    ("evaluation", [], "evaluation.stop in its run's config.json is no list of texts"),
    ("evaluation", {"max_new_tokens": -1}, "evaluation.max_new_tokens in its run's config.json is -1"),
    ("task", {"prompt": "{text"}, "task.prompt: "),
    ("task", {"prompt": "{text:9999999999}"}, "task.prompt: 9999999999 characters"),
]


@pytest.mark.parametrize(("section", "value", "message"), HOSTILE)
def test_settings_that_no_run_wrote_are_refused(
    served: Served, runs: Path, tiny_model: Path, section: str, value: Any, message: str
) -> None:
    folder = make_run(tiny_model, runs / "hostile", 3, {**SETTINGS, section: value})
    try:
        reply = served.post("/v1/adapters", name="hostile", path="hostile")
        assert (reply.status_code, message in reply.json()["error"]["message"]) == (400, True), reply.text
        (folder / "config.json").unlink()
        config = folder / "adapter" / "adapter_config.json"
        values = json.loads(config.read_text())
        for wrong in ({"num_virtual_tokens": "5"}, {"base_model_name_or_path": 5}, {"peft_type": "PREFIX_TUNING"}):
            config.write_text(json.dumps(values | wrong))
            assert served.post("/v1/adapters", name="hostile", path="hostile").status_code == 400
        elsewhere = folder.parent.parent / f"{folder.parent.name}.json"
        config.rename(elsewhere)
        config.symlink_to(elsewhere)
        assert served.post("/v1/adapters", name="hostile", path="hostile").status_code == 403
        assert served.http.get("/v1/models").status_code == 200
    finally:
        shutil.rmtree(folder)


FAULTS: list[tuple[str, dict[str, Any], int, str]] = [
    ("completions", {"model": "on", "prompt": "a"}, 404, 'model: "on" (did you mean "one"?)'),
    ("completions", {"model": "one"}, 400, "give either prompt or columns"),
    ("completions", {"model": "one", "prompt": "a", "max_token": 3}, 400, 'unknown field "max_token" (did you mean'),
    ("completions", {"model": "one", "prompt": "a", "max_tokens": 65}, 400, "max_tokens: at most 64 here, found 65"),
    ("completions", {"model": "one", "prompt": "a", "max_tokens": "6"}, 400, "max_tokens"),
    ("completions", {"model": "one", "prompt": "a", "temperature": 3}, 400, "temperature: Input should be less"),
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
    ("classify", {"model": "one", "input": "a"}, 400, "choices: one has none of its own; give two or more"),
    ("classify", {"model": "one", "input": "a", "choices": ["a", "a"]}, 400, "choices: expected different ones"),
    ("outcomes", {"id": "x", "outcome": 1}, 404, 'no answer of a split has the id "x"'),
    ("adapters", {"name": "x", "path": "../elsewhere"}, 403, "path: expected one below serve.folder"),
    ("adapters", {"name": "x", "path": "/etc"}, 403, "path: expected one below serve.folder"),
    ("adapters", {"name": "x", "path": "none\x00"}, 403, "path: expected one below serve.folder"),
    ("adapters", {"name": "x", "path": "missing"}, 400, "no such folder"),
    ("adapters", {"name": "one", "path": "two"}, 400, '"one" is served already'),
    ("adapters", {"name": "x", "path": "n" * 300}, 400, "cannot be read"),
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


def test_adapters_come_and_go_while_others_are_served(served: Served, runs: Path, tiny_model: Path) -> None:
    before_it = served.complete("one", TEXT, max_tokens=6)["choices"][0]["text"]
    make_run(tiny_model, runs / "late", 7)
    added = served.post("/v1/adapters", name="late", path="late")
    assert (added.status_code, added.json()["virtual_tokens"]) == (201, 5)
    late = served.complete("late", TEXT, max_tokens=6)["choices"][0]["text"]
    assert late == expected(tiny_model, 7, TEXT, 6) != before_it
    assert served.http.delete("/v1/adapters/late").json()["deleted"] is True
    assert served.http.delete("/v1/adapters/late").status_code == 404
    assert served.post("/v1/completions", model="late", prompt=TEXT).status_code == 404
    assert served.complete("one", TEXT, max_tokens=6)["choices"][0]["text"] == before_it
    assert served.http.delete("/v1/adapters/base").status_code == 400


def test_choices_are_read_in_parts_and_too_many_are_refused(served: Served, tiny_model: Path, runs: Path) -> None:
    choices = [f"film {n}" for n in range(40)]
    body = {"model": "sentiment", "input": TEXT, "choices": choices}
    whole = served.post("/v1/classify", **body).json()["data"][0]["log_likelihoods"]
    config = ServeConfig(adapters={"sentiment": str(runs / "sentiment")}, max_batch_positions=100)
    with serving(tiny_model, config) as small:
        parts = small.post("/v1/classify", **body).json()["data"][0]["log_likelihoods"]
        assert parts == pytest.approx(whole, abs=1e-4)
        refused = small.post("/v1/classify", **body | {"choices": [f"film {n}" for n in range(400)]})
        assert (refused.status_code, "are too many" in refused.json()["error"]["message"]) == (400, True)


def test_health_metrics_and_page_are_there(served: Served) -> None:
    assert served.http.get("/health").json() == {"status": "ok"}
    assert served.http.get("/ready").status_code == 200
    served.complete("one", TEXT, max_tokens=3)
    text = served.http.get("/metrics").text
    assert 'softprompts_tokens_total{kind="written",model="one"}' in text
    assert 'softprompts_requests_total{route="/v1/completions",status="200"}' in text
    page = served.http.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert served.http.get("/v1/elsewhere").json()["error"]["type"] == "not_found_error"


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_client_that_leaves_takes_its_answer_with_it(tiny_model: Path, runs: Path) -> None:
    config = ServeConfig(adapters={"one": str(runs / "one")}, max_new_tokens=400)
    with serving(tiny_model, config, pause=0.02) as served:
        scheduler = served.service.scheduler
        body = {"model": "one", "prompt": TEXT, "max_tokens": 200}
        with served.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as stream:
            next(stream.iter_lines())
        wait_until(lambda: scheduler.counts.over == {"cancelled": 1})
        with pytest.raises(httpx.ReadTimeout):
            served.http.post("/v1/completions", json=body, timeout=0.3)
        wait_until(lambda: scheduler.counts.over == {"cancelled": 2})
        assert (scheduler.running, scheduler.waiting) == (0, 0)
        assert served.complete("one", TEXT, max_tokens=3)["choices"][0]["finish_reason"] == "length"


def test_a_full_queue_and_late_answers_have_their_status(tiny_model: Path, runs: Path) -> None:
    config = ServeConfig(
        adapters={"one": str(runs / "one")}, max_batch_rows=1, max_waiting=2, max_new_tokens=400, timeout=1.0
    )
    with serving(tiny_model, config, pause=0.02) as served:
        body = {"model": "one", "prompt": TEXT, "max_tokens": 200}
        late: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: late.append(served.post("/v1/completions", **body))) for _ in "ab"]
        for thread in threads:
            thread.start()
        wait_until(lambda: served.service.scheduler.running == 1 and served.service.scheduler.waiting == 1)
        full = served.post("/v1/completions", **body, n=2)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        wait_until(lambda: served.service.scheduler.waiting <= 1)  # none of its answers stays
        for thread in threads:
            thread.join()
        assert [(reply.status_code, reply.json()["error"]["code"]) for reply in late] == [(504, "timeout")] * 2
        many = served.post("/v1/completions", **body, n=3)
        assert many.status_code == 400


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
    for content, message in (("", "holds no key"), ("short\n", "line 1: expected 16 or more"), (None, "cannot read")):
        file.write_text(content) if content is not None else file.unlink()
        with pytest.raises(UserError, match=message):
            make_app(load_tasks(*load_base(tiny_model), config), config)


def test_a_split_shares_its_traffic_out_and_logs_what_became_of_it(
    tiny_model: Path, runs: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    config = ServeConfig(
        adapters={"a": str(runs / "one"), "b": str(runs / "two")}, split={"ab": {"a": 1, "b": 3}}, split_log=str(log)
    )
    with serving(tiny_model, config) as served:
        alone = {name: served.complete(name, TEXT, max_tokens=4)["choices"][0]["text"] for name in "ab"}
        replies = [served.complete("ab", TEXT, max_tokens=4, user=f"user {n}") for n in range(40)]
        again = [served.complete("ab", TEXT, max_tokens=4, user=f"user {n}") for n in range(40)]
        texts = [reply["choices"][0]["text"] for reply in replies]
        assert texts == [reply["choices"][0]["text"] for reply in again], "a user stays with one adapter"
        assert replies[0]["model"] == "ab"
        assert served.post("/v1/outcomes", id=replies[0]["id"], outcome=1).status_code == 200
        records = [json.loads(line) for line in log.read_text().splitlines()]
        assert [alone[record["adapter"]] for record in records[:40]] == texts
        assert 5 <= sum(record["adapter"] == "a" for record in records[:40]) <= 18
        assert records[-1]["outcome"] == 1
        assert records[-1]["adapter"] == records[0]["adapter"]
        assert served.http.delete("/v1/adapters/a").status_code == 400, "the split needs it"
        assert len({record["user"] for record in records[:80]}) == 40, "a digest of each"
        assert not any("user 3" in line for line in log.read_text().splitlines())
        for number, (reply, record) in enumerate(zip(replies, records, strict=False)):
            value = float(record["adapter"] == "b" or number % 8 == 0)
            assert served.post("/v1/outcomes", id=reply["id"], outcome=value).status_code == 200
    lines = compare_outcomes(str(log), 500)
    assert lines[0] == "ab:"
    assert "b is better than a in outcome" in lines[-1] or "a is" not in lines[-1]


def test_what_cannot_be_served_is_said_and_the_others_are_served(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, tokenizer = load_base(tiny_model)
    for number in range(3):
        make_run(tiny_model, tmp_path / "all" / f"run{number}", number)
    file = tmp_path / "all" / "run1" / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    make_run(tiny_model, tmp_path / "secret", 9)
    (tmp_path / "all" / "link").mkdir()
    (tmp_path / "all" / "link" / "adapter_config.json").symlink_to(tmp_path / "secret/adapter/adapter_config.json")
    tasks = load_tasks(base, tokenizer, ServeConfig(folder=str(tmp_path / "all")))
    assert tasks.names == ["base", "run0", "run2"]
    assert "not served: run1" in caplog.text
    assert "is a link out of serve.folder" in caplog.text
    for config, message in (
        (ServeConfig(folder=str(tmp_path / "none")), "serve.folder: no such folder"),
        (ServeConfig(), "serve.adapters: expected an adapter there, or a folder"),
        (
            ServeConfig(folder=str(tmp_path / "all"), split={"s": {"run0": 1, "run9": 1}}),
            'serve.split.s: no adapter "run9"',
        ),
        (ServeConfig(folder=str(tmp_path / "all"), split={"run0": {"run0": 1, "run2": 1}}), "an adapter has that name"),
    ):
        with pytest.raises(UserError, match=message):
            load_tasks(base, tokenizer, config)
