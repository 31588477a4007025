"""A library of soft prompts: its index, and which of them is nearest to a task, by hand-made values."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from method_runs import saved_by_peft
from softprompts.errors import UserError
from softprompts.evaluation.library import main, nearest_adapters, read_index, write_index

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from safetensors.torch import save_file

WIDTH = 32


def save(model: Path, folder: Path, direction: list[float] | None, tokens: int = 2, prefix: bool = False) -> None:
    """Save an adapter whose mean virtual token is `direction`, then zeros; or a LoRA."""
    if direction is None:
        saved_by_peft(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]), folder)
        return
    kind: Any = PrefixTuningConfig if prefix else PromptTuningConfig
    saved_by_peft(model, kind(task_type="CAUSAL_LM", num_virtual_tokens=tokens), folder)
    mean = torch.zeros(64 if prefix else WIDTH)
    mean[: len(direction)] = torch.tensor(direction)
    noise = torch.randn(tokens, len(mean))
    save_file({"prompt_embeddings": mean + noise - noise.mean(0)}, folder / "adapter_model.safetensors")


@pytest.fixture
def library(tiny_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    save(tiny_model, folder / "far", [0.0, 1.0])
    save(tiny_model, folder / "near" / "adapter", [2.0, 0.1], tokens=5)
    save(tiny_model, folder / "opposite", [-1.0, 0.0])
    save(tiny_model, folder / "prefix", [1.0, 0.0], prefix=True)
    save(tiny_model, folder / "lora", None)
    save(tiny_model, tmp_path / "task", [1.0, 0.0], tokens=3)
    return folder


def test_the_index_lists_soft_prompts_and_prefixes(library: Path, tiny_model: Path) -> None:
    run = {"recipe": "prompt_tuning", "task": {"dataset": "embedded:sentiment", "prompt": "{text}"}}
    (library / "near" / "config.json").write_text(json.dumps(run))
    entries = write_index(str(library))
    assert {e.path: (e.type, e.num_virtual_tokens, e.base, e.task) for e in entries} == {
        "far": ("PROMPT_TUNING", 2, str(tiny_model), ""),
        "near/adapter": ("PROMPT_TUNING", 5, str(tiny_model), "embedded:sentiment"),
        "opposite": ("PROMPT_TUNING", 2, str(tiny_model), ""),
        "prefix": ("PREFIX_TUNING", 2, str(tiny_model), ""),
    }
    assert read_index(str(library)) == entries
    assert list(json.loads((library / "index.json").read_text())) == ["adapters"]


def test_the_nearest_is_the_one_whose_mean_points_the_same_way(library: Path, tmp_path: Path) -> None:
    write_index(str(library))
    found = nearest_adapters(str(tmp_path / "task"), str(library))
    assert [near.entry.path for near in found] == ["near/adapter", "far", "opposite"]
    expected = [2 / math.hypot(2, 0.1), 0.0, -1.0]
    assert [near.similarity for near in found] == pytest.approx(expected, abs=1e-6)


def test_what_is_in_the_library_is_not_compared_with_itself(library: Path) -> None:
    write_index(str(library))
    assert [n.entry.path for n in nearest_adapters(str(library / "far"), str(library))] == ["near/adapter", "opposite"]


def test_another_base_is_left_out_as_far_as_it_is_known(library: Path, tmp_path: Path) -> None:
    write_index(str(library))

    def note(folder: Path, digest: str) -> None:
        record = {"name": "m", "architecture": "llama", "sizes": {}, "weights": {"float32": digest}}
        (folder / "base_model.json").write_text(json.dumps(record))

    note(tmp_path / "task", "a")
    note(library / "far", "a")
    note(library / "opposite", "b")
    found = nearest_adapters(str(tmp_path / "task"), str(library))
    assert [near.entry.path for near in found] == ["near/adapter", "far"], "what says nothing of its base is compared"


def test_mistakes_are_one_line(library: Path, tmp_path: Path) -> None:
    def refused(call: Any, *arguments: Path) -> str:
        with pytest.raises(UserError) as caught:
            call(*map(str, arguments))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    task = tmp_path / "task"
    index = library / "index.json"
    assert refused(nearest_adapters, task, library) == (
        f"library: no such file: {index}; make it with python -m softprompts.evaluation.library {library}"
    )
    (tmp_path / "empty").mkdir()
    assert refused(write_index, tmp_path / "empty") == (
        f"library: {tmp_path / 'empty'} has no soft prompts or prefixes below it"
    )
    write_index(str(library))
    assert refused(nearest_adapters, library / "prefix", library) == (
        f"library: {library} has no adapter with the type, width and base model of {library / 'prefix'}"
    )
    assert refused(nearest_adapters, library / "lora", library) == (
        f"adapter.path: {library / 'lora'} has no virtual tokens to compare"
    )
    shutil.rmtree(library / "far")
    assert refused(nearest_adapters, task, library).startswith(f"library: no such folder: {library / 'far'}")
    index.write_text('{"adapters": [{"path": "far"}]}')
    assert refused(read_index, library).startswith(f"library: {index} is damaged: ")


def test_the_command_writes_the_index_and_ranks(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(library)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "far: PROMPT_TUNING, 2 virtual tokens, unknown task"
    assert main([str(library), "--like", str(tmp_path / "task")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "+0.999  near/adapter (unknown task)"
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: library: ")
