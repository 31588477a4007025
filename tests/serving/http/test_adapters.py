"""Adapters that a server begins with, and those that come and go while it runs."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from helpers import load_base
from made_server import SETTINGS, TEXT, Served, expected, make_run, make_runs, serving, wait_until
from softprompts.config.tools import ServeConfig
from softprompts.errors import UserError
from softprompts.serving.http.service import load_tasks

import pytest
from peft import LoraConfig, get_peft_model

HOSTILE: list[tuple[str, Any, str]] = [
    ("evaluation", {"stop": [1]}, "its evaluation.stop is not a list of texts"),
    ("evaluation", {"stop": [""]}, "its evaluation.stop is not a list of texts"),
    ("evaluation", [], "its evaluation.stop is not a list of texts"),
    ("evaluation", {"max_new_tokens": -1}, "its evaluation.max_new_tokens is -1"),
    ("task", {"prompt": "{text"}, "task.prompt: "),
    ("task", {"prompt": "{text:9999999999}"}, "task.prompt: 9999999999 characters"),
    ("task", {**SETTINGS["task"], "choices": ["\ud800", "b"]}, "half of a surrogate pair"),
    ("task", {**SETTINGS["task"], "prompt": "{text}\ud800"}, "half of a surrogate pair"),
    ("evaluation", {"stop": ["\ud800"]}, "half of a surrogate pair"),
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
    (tmp_path / "all" / "current").symlink_to("run0")
    lora = get_peft_model(load_base(tiny_model)[0], LoraConfig(task_type="CAUSAL_LM"))
    lora.save_pretrained(str(tmp_path / "lora"))
    tasks = load_tasks(base, tokenizer, ServeConfig(folder=str(tmp_path / "all")))
    assert tasks.names == ["base", "run0", "run2"]
    assert "not served: run1" in caplog.text
    assert "is a link out of serve.folder" in caplog.text
    assert "not served: current: is a link to a folder" in caplog.text
    (tmp_path / "empty").mkdir()
    assert load_tasks(base, tokenizer, ServeConfig(folder=str(tmp_path / "empty"))).names == ["base"]
    assert f"serve.folder: no adapter below {tmp_path / 'empty'}" in caplog.text
    for config, message in (
        (ServeConfig(folder=str(tmp_path / "none")), "serve.folder: no such folder"),
        (ServeConfig(), "serve.adapters: expected an adapter there, or a folder"),
        (ServeConfig(adapters={"my task": "x"}), "^serve.adapters.my task: expected at most 64 letters"),
        (ServeConfig(adapters={"base": "x"}), '^serve.adapters.base: "base" is served already: choose another name$'),
        (ServeConfig(adapters={"lora": str(tmp_path / "lora")}), "^serve.adapters.lora: .*: is LORA, which changes"),
        (
            ServeConfig(folder=str(tmp_path / "all"), split={"s": {"run0": 1, "run9": 1}}),
            'serve.split.s: no adapter "run9"',
        ),
        (ServeConfig(folder=str(tmp_path / "all"), split={"run0": {"run0": 1, "run2": 1}}), "an adapter has that name"),
    ):
        with pytest.raises(UserError, match=message):
            load_tasks(base, tokenizer, config)


def test_numbers_of_a_model_that_has_gone_go_under_one_name(tiny_model: Path, tmp_path: Path) -> None:
    runs = make_runs(tiny_model, tmp_path)
    with serving(tiny_model, ServeConfig(folder=str(runs)), pause=0.02) as served:
        replies: list[dict[str, Any]] = []
        asked = threading.Thread(target=lambda: replies.append(served.complete("one", TEXT, max_tokens=40)))
        asked.start()
        wait_until(lambda: served.service.scheduler.running == 1)
        assert served.http.delete("/v1/adapters/one").status_code == 200
        asked.join()
        assert replies[0]["choices"][0]["text"] == expected(tiny_model, 0, TEXT, 40), "it is answered to its end"
        numbers = served.metrics()
    assert 'softprompts_tokens_total{kind="written",model="(removed)"} 40.0' in numbers
    assert 'model="one"' not in numbers


def test_an_adapter_whose_request_is_late_is_not_added(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ServeConfig(folder=str(make_runs(tiny_model, tmp_path)), timeout=0.5)
    with serving(tiny_model, config) as served:
        tasks, read = served.service.tasks, served.service.tasks.read
        monkeypatch.setattr(tasks, "read", lambda *given: (time.sleep(1.5), read(*given))[1])
        assert served.post("/v1/adapters", name="late", path="one").status_code == 504
        wait_until(lambda: served.service.scheduler.waiting == 0)
        assert "late" not in tasks.names
        monkeypatch.setattr(tasks, "read", read)
        assert served.post("/v1/adapters", name="late", path="one").status_code == 201


def test_one_of_two_requests_removes_an_adapter(tiny_model: Path, tmp_path: Path) -> None:
    runs = make_runs(tiny_model, tmp_path)
    with serving(tiny_model, ServeConfig(folder=str(runs)), pause=0.05) as served:
        with ThreadPoolExecutor(4) as clients:
            long = clients.submit(served.complete, "two", TEXT, max_tokens=20)
            wait_until(lambda: served.service.scheduler.running == 1)
            gone = list(clients.map(served.http.delete, ["/v1/adapters/one"] * 2))
            long.result()
        assert sorted(reply.status_code for reply in gone) == [200, 404]
