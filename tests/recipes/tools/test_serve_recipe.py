"""recipes/serve.py as a process: it answers, ends properly, and reports errors in one line."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from pathlib import Path

from benchmarks.ports import free_port
from helpers import cli_in_process, load_tuned, start_recipe
from made_server import SETTINGS, make_run

import httpx
import pytest


def command(model: Path, *flags: str) -> list[str]:
    return ["recipes/serve.py", "--model.name_or_path", str(model), *flags]


def adapter(model: Path, folder: Path) -> str:
    load_tuned(model)[0].save_pretrained(str(folder))
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_end_and_takes_no_more(tiny_model: Path, tmp_path: Path, number: int) -> None:
    port = free_port()
    named = f"{{t: {adapter(tiny_model, tmp_path)}}}"
    process = start_recipe(command(tiny_model, "--serve.port", str(port), "--serve.adapters", named))
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 120
        while True:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.ConnectError:
                time.sleep(0.05)
        body = {"model": "t", "prompt": "the film was good", "max_tokens": 150, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            process.send_signal(number)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2][6:])["choices"][0]["finish_reason"] == "length"
        assert json.loads(first[6:])["choices"][0]["finish_reason"] is None
        assert process.wait(60) == 0
        out, err = process.communicate()
        assert "stopped" in out
        assert "Traceback" not in out + err
    finally:
        process.kill()
        process.wait()


def test_what_is_wrong_is_one_line(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = f"{{t: {make_run(tiny_model, tmp_path, 0, SETTINGS)}}}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flags, message in (
            (["--serve.adapters", named, "--serve.port", port], f"serve.port: cannot listen at 127.0.0.1:{port}: Addr"),
            (
                ["--serve.adapters", named, "--serve.host", "no.such.host.invalid"],
                "serve.port: cannot listen at no.such",
            ),
            ([], "serve.adapters: expected an adapter there, or a folder"),
            (["--serve.adapters", "{t: /nowhere}"], "serve.adapters.t: no such folder: /nowhere"),
            (["--serve.adapters", named, "--serve.timeout", "0"], "serve.timeout: expected a number above 0"),
            (["--serve.adapters", named, "--serve.split", "{s: {t: 1}}"], "serve.split.s: expected two or more"),
            (["--serve.adapters", named, "--serve.split_log", "x"], "serve.split_log: applies only with serve.split"),
            (["--serve.adapters", named, "--model.engine", "stock"], "model.engine: recipes/serve.py has its own"),
            (["--serve.adaptors", named], 'unknown flag "--serve.adaptors" (did you mean "serve.adapters"?)'),
        ):
            code, _, lines = cli_in_process(command(tiny_model, *flags), capsys)
            assert (code, len(lines)) == (2, 1), lines
            assert message in lines[0]
    assert "decoding" not in [thread.name for thread in threading.enumerate()]
