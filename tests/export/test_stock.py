"""Plain PEFT folders: stock PEFT gives the original's logits, and no file names this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from made_adapters import KINDS, saved
from method_runs import saved_by_peft
from softprompts.config.sections import ModelConfig
from softprompts.config.tools import AdapterConfig, ExportConfig, InputConfig
from softprompts.errors import UserError
from softprompts.export import stock
from softprompts.export.forms import write_export

import pytest
import torch
from peft import LoraConfig, MultitaskPromptTuningConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

TEXTS = InputConfig(["the film was good", "a very dull plot and a poor cast"], "{text} sentiment")


def export(model: Path, adapter: Path, folder: Path, task_id: int = 0, **more: Any) -> list[str]:
    config = ExportConfig("peft", str(folder), base="org/tiny", **more)
    return write_export(ModelConfig(str(model)), AdapterConfig(str(adapter), task_id=task_id), config, TEXTS)


def logits(model: Path, adapter: Path, auto: Any = AutoModelForCausalLM, **more: Any) -> torch.Tensor:
    tuned = PeftModel.from_pretrained(auto.from_pretrained(model).eval(), str(adapter)).eval()
    ids = AutoTokenizer.from_pretrained(model)("the film was good", return_tensors="pt").input_ids
    with torch.inference_mode():
        found: torch.Tensor = tuned(input_ids=ids, **more).logits
    return found


@pytest.mark.parametrize("kind", ["prompt", "prefix", "P-tuning", "CPT", "cartridge", "LoRA", "LoRA, words", "IA3"])
def test_stock_peft_gives_the_logits_of_the_original(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    saved(tiny_model, KINDS[kind](), tmp_path / "adapter")
    (line,) = export(tiny_model, tmp_path / "adapter", tmp_path / "it")
    assert line.endswith("on 2 rows")
    torch.testing.assert_close(logits(tiny_model, tmp_path / "it"), logits(tiny_model, tmp_path / "adapter"))
    assert {file.name for file in (tmp_path / "it").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    text = (tmp_path / "it/adapter_config.json").read_text(encoding="utf-8")
    assert json.loads(text)["base_model_name_or_path"] == "org/tiny"
    assert str(tiny_model) not in text
    assert (tmp_path / "it/adapter_model.safetensors").stat().st_mode == (
        tmp_path / "it/adapter_config.json"
    ).stat().st_mode


def test_one_task_of_several_becomes_a_plain_prompt(tiny_model: Path, tmp_path: Path) -> None:
    config = MultitaskPromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, num_tasks=2)
    saved_by_peft(tiny_model, config, tmp_path / "adapter", scale=3.0)
    found = []
    for number in (0, 1):
        export(tiny_model, tmp_path / "adapter", tmp_path / f"it{number}", task_id=number)
        found.append(logits(tiny_model, tmp_path / f"it{number}"))
        expected = logits(tiny_model, tmp_path / "adapter", task_ids=torch.tensor([number]))
        torch.testing.assert_close(found[-1], expected)
    assert not torch.allclose(*found)


def test_an_encoder_decoder(tiny_t5: Path, tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)
    torch.manual_seed(0)
    get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(tiny_t5), config).save_pretrained(str(tmp_path / "adapter"))
    export(tiny_t5, tmp_path / "adapter", tmp_path / "it")
    start = {"decoder_input_ids": torch.tensor([[2]])}
    found = [logits(tiny_t5, tmp_path / name, AutoModelForSeq2SeqLM, **start) for name in ("it", "adapter")]
    torch.testing.assert_close(*found)


def test_several_go_into_folders_of_their_own(tiny_model: Path, voters: dict[str, Path], tmp_path: Path) -> None:
    given = {"one": str(voters["one"]), "lora": str(voters["lora"])}
    config = ExportConfig("peft", str(tmp_path / "it"), given, base="org/tiny")
    lines = write_export(ModelConfig(str(tiny_model)), AdapterConfig(), config, TEXTS)
    assert [line.partition(":")[0] for line in lines] == ["one", "lora"]
    for name, path in given.items():
        ours, theirs = (load_file(Path(f) / "adapter_model.safetensors") for f in (tmp_path / "it" / name, path))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_base_model_of_this_machine_needs_a_name(tiny_model: Path, voters: dict[str, Path], tmp_path: Path) -> None:
    config = ExportConfig("peft", str(tmp_path / "it"))
    with pytest.raises(UserError, match=re.escape(f"export.base: {tiny_model} is a folder of this machine")):
        write_export(ModelConfig(str(tiny_model)), AdapterConfig(str(voters["one"])), config, TEXTS)
    job: Any = stock.Job(ModelConfig("bundled:smollm2-135m-instruct"), config, [])
    assert stock.portable_base(job) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "dequantised from SmolLM2-135M-Instruct.Q4_1.gguf" in stock.about_base(job)
    assert stock.portable_base(stock.Job(ModelConfig("org/name"), config, [])) == "org/name"


def test_a_failed_check_leaves_nothing(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, target_modules=["q_proj"])
    saved_by_peft(tiny_model, config, tmp_path / "adapter")

    def spoiled(model: Any, task: int | None = None) -> Any:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.mul_(1.2 if "lora_B" in name else 1.0)
        return model

    monkeypatch.setattr(stock, "folded", spoiled)
    with pytest.raises(UserError, match="peft failed its check, and nothing was written: the logits of adapter differ"):
        export(tiny_model, tmp_path / "adapter", tmp_path / "it")
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]
