"""Choices scored by likelihood: /v1/classify."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from helpers import load_tuned
from made_server import TEXT, Served, serving, wait_until
from softprompts.config.tools import ServeConfig
from softprompts.serving.likelihood import log_likelihoods, read_prompt

import httpx
import pytest
import torch


def test_choices_are_scored_by_likelihood(served: Served, tiny_model: Path) -> None:
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


@pytest.fixture
def slow_scores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Slow down the scoring of texts, and return a list that grows with each."""
    scored: list[int] = []

    def score(*arguments: Any) -> list[float]:
        time.sleep(0.05)
        scored.append(1)
        return log_likelihoods(*arguments)

    monkeypatch.setattr("softprompts.serving.http.service.log_likelihoods", score)
    return scored


def test_a_client_that_leaves_ends_its_scores(served: Served, slow_scores: list[int]) -> None:
    body = {"model": "sentiment", "input": [TEXT] * 60}
    with pytest.raises(httpx.ReadTimeout):
        served.http.post("/v1/classify", json=body, timeout=0.3)
    metric = 'softprompts_requests_total{route="/v1/classify",status="499"} 1.0'
    wait_until(lambda: metric in served.metrics())
    assert len(slow_scores) < 60
    wait_until(lambda: served.service.scheduler.waiting == 0)


def test_all_texts_of_a_request_have_one_time_limit(tiny_model: Path, runs: Path, slow_scores: list[int]) -> None:
    config = ServeConfig(adapters={"sentiment": str(runs / "sentiment")}, timeout=0.5)
    with serving(tiny_model, config) as served:
        late = served.post("/v1/classify", model="sentiment", input=[TEXT] * 60)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        assert len(slow_scores) < 60
        assert served.post("/v1/classify", model="sentiment", input=TEXT).status_code == 200


def test_the_keys_and_values_of_one_prompt_are_in_memory(
    served: Served, slow_scores: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(*arguments: Any) -> Any:
        read.append(len(read) - len(slow_scores))  # prompts whose choices have not been scored
        return read_prompt(*arguments)

    monkeypatch.setattr("softprompts.serving.http.service.read_prompt", counted)
    with ThreadPoolExecutor(8) as clients:
        bodies = [{"model": "sentiment", "input": TEXT}] * 8
        replies = list(clients.map(lambda body: served.post("/v1/classify", **body), bodies))
    assert [reply.status_code for reply in replies] == [200] * 8
    assert read == [0] * 8


def test_scores_that_wait_when_the_server_ends_are_refused(
    tiny_model: Path, runs: Path, slow_scores: list[int]
) -> None:
    config = ServeConfig(adapters={"sentiment": str(runs / "sentiment")})
    with serving(tiny_model, config) as served:
        replies: list[httpx.Response] = []
        body = {"model": "sentiment", "input": [TEXT] * 25}
        threads = [threading.Thread(target=lambda: replies.append(served.post("/v1/classify", **body))) for _ in "ab"]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(slow_scores) > 2)
        served.service.scheduler.close(0)
        for thread in threads:
            thread.join()
        assert [(r.status_code, r.json()["error"]["code"]) for r in replies] == [(503, "stopping")] * 2


def test_who_comes_while_the_queue_is_being_closed_hears_why(served: Served) -> None:
    served.service.scheduler._draining = True  # the first part of `close`, while the thread still runs
    refused = [
        served.post("/v1/classify", model="sentiment", input=TEXT),
        served.post("/v1/completions", model="sentiment", prompt=TEXT),
    ]
    served.service.scheduler._draining = False
    assert [(r.status_code, r.json()["error"]["code"]) for r in refused] == [(503, "stopping")] * 2
