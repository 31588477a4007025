"""The record of a run, and its adapter."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helpers import load_base, load_tuned
from made_result import make_result
from softprompts.adapters.saving import saved_parameters
from softprompts.errors import UserError
from softprompts.reports.run import save_adapter
from softprompts.runs import environment as results
from softprompts.runs.environment import environment, peak_memory_gib
from softprompts.runs.record import as_json, load_result
from softprompts.runs.run import Run

import psutil
import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import save_file


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    result = make_result()
    path = tmp_path / "result.json"
    path.write_text(json.dumps(asdict(result)), encoding="utf-8")
    assert load_result(path) == result


def test_environment() -> None:
    found = environment()
    assert found["versions"]["torch"] == version("torch")
    assert set(found["versions"]) == {"python", *results.PACKAGES}
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|unknown", found["commit"])
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["threads"] == torch.get_num_threads()
    assert found["hardware"]["memory_gib"] == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.1)
    assert len(found["hardware"]["gpus"]) == torch.cuda.device_count()
    json.dumps(found)


def test_a_package_that_is_not_there_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PACKAGES", ("torch", "no_such_package"))
    assert set(environment()["versions"]) == {"python", "torch"}


@pytest.mark.parametrize(
    ("status", "commit"),
    [("", "abc123"), (" M src/softprompts/engine/forward.py\n", "abc123+changes"), (None, "unknown")],
)
def test_commit(monkeypatch: pytest.MonkeyPatch, status: str | None, commit: str) -> None:
    """`None`: no git, or no checkout."""

    def run(command: list[str], **_: Any) -> Any:
        if status is None:
            raise subprocess.CalledProcessError(128, command)
        return SimpleNamespace(stdout="abc123\n" if "rev-parse" in command else status)

    monkeypatch.setattr(subprocess, "run", run)
    assert environment()["commit"] == commit


def test_records_that_a_benchmark_writes_are_no_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, code = tmp_path / "results" / "grid.json", tmp_path / "src" / "results.py"
    for file in (record, code):
        file.parent.mkdir()
        file.write_text("before", encoding="utf-8")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(results, "PROJECT", tmp_path)
    monkeypatch.setattr(results, "IS_CLONE", True)
    first = results.commit()
    record.write_text("after", encoding="utf-8")
    assert results.commit() == first
    code.write_text("after", encoding="utf-8")
    assert results.commit() == f"{first}+changes"


def test_peak_memory_holds_what_was_allocated_once() -> None:
    block = torch.ones(2**24)  # 64 MiB
    assert 0.1 < peak_memory_gib() < psutil.virtual_memory().total / 2**30
    with_block = peak_memory_gib()
    del block
    assert peak_memory_gib() >= with_block


def test_saved_parameters(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, tmp_path / "a.safetensors")
    save_file({"a": torch.zeros(5)}, tmp_path / "b.safetensors")
    assert saved_parameters(list(tmp_path.glob("*.safetensors"))) == 15
    assert saved_parameters([]) == 0


def test_adapter_is_a_stock_one(tiny_model: Path, tmp_path: Path) -> None:
    """PEFT alone, on a newly loaded base model, gives the same logits; no file is a pickle."""
    tuned, tokenizer = load_tuned(tiny_model)
    run = Run("test", {}, tmp_path, 0, Accelerator(cpu=True), 0.0)
    folder = save_adapter(tuned, run)
    assert folder == tmp_path / "adapter"
    assert {p.suffix for p in folder.iterdir()} <= {".safetensors", ".json", ".md"}
    assert saved_parameters([folder / "adapter_model.safetensors"]) == 5 * 32
    base, _ = load_base(tiny_model)
    ids = torch.tensor([tokenizer("the film was").input_ids])
    with torch.inference_mode():
        without = base(input_ids=ids).logits
        expected = tuned(input_ids=ids).logits
        loaded = PeftModel.from_pretrained(base, folder)(input_ids=ids).logits
    assert torch.equal(loaded, expected)
    assert not torch.allclose(loaded[:, -1], without[:, -1], atol=1e-2)


def test_a_loss_that_is_no_number_is_null_in_the_record(tmp_path: Path) -> None:
    result = make_result(training={"history": [{"step": 1, "validation_loss": float("nan")}], "best_step": 1})
    (tmp_path / "result.json").write_text(as_json(result), encoding="utf-8")
    assert "NaN" not in as_json(result)
    assert load_result(tmp_path / "result.json").training["history"] == [{"step": 1, "validation_loss": None}]


def test_a_field_that_this_version_does_not_know_is_left_out(tmp_path: Path) -> None:
    record = json.loads(as_json(make_result())) | {"energy_of_tomorrow": 1}
    record["metrics"]["accuracy"]["level_of_tomorrow"] = 0.95
    (tmp_path / "result.json").write_text(json.dumps(record), encoding="utf-8")
    assert load_result(tmp_path / "result.json") == make_result()


def test_a_record_without_a_schema_version_has_the_first_one(tmp_path: Path) -> None:
    record = json.loads(as_json(make_result()))
    del record["schema_version"]
    (tmp_path / "result.json").write_text(json.dumps(record), encoding="utf-8")
    assert load_result(tmp_path / "result.json").schema_version == 1


def test_a_record_of_an_unknown_schema_version_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(as_json(make_result(schema_version=99)), encoding="utf-8")
    with pytest.raises(UserError, match=r"result\.json: this record has schema version 99, but only 1 is known$"):
        load_result(tmp_path / "result.json")
