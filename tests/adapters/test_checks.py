"""An adapter whose tensors are not all loaded, or that has no effect on the model, is an error of one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import load_base
from made_adapters import KINDS, LORA, change_config, change_weights, load, saved
from method_runs import saved_by_peft
from softprompts.adapters.checks import answer_to_probe
from softprompts.adapters.configs import read_config
from softprompts.adapters.loading import load_adapter
from softprompts.adapters.switch import has_base, without_adapter
from softprompts.config.sections import ModelConfig
from softprompts.config.tools import AdapterConfig
from softprompts.errors import UserError
from softprompts.models.loading import load_base_model

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whatever_peft_saves_arrives_and_is_heeded(
    tiny_model: Path, tmp_path: Path, kind: str, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = saved(tiny_model, KINDS[kind](), tmp_path / "saved")
    capsys.readouterr()
    found = load_adapter(load_base(tiny_model, dtype)[0], AdapterConfig(str(tmp_path / "saved")))
    assert capsys.readouterr().err == ""
    expected, own = (answer_to_probe(m, read_config(tmp_path / "saved"), 0) for m in (tuned, found))
    torch.testing.assert_close(own, expected, **({} if dtype == "float32" else {"atol": 0.3, "rtol": 0.1}))


RENAMED: dict[str, Callable[[str], str]] = {
    "compiled": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "in parallel": lambda name: f"module.{name}",
    "without PEFT's prefix": lambda name: name.removeprefix("base_model.model."),
    "renamed layers": lambda name: name.replace("self_attn", "attention"),
    "another projection": lambda name: name.replace("q_proj", "k_proj"),
    "a layer that is not there": lambda name: name.replace("layers.1.", "layers.7."),
    "an old spelling": lambda name: name.replace("lora_A", "lora_down").replace("lora_B", "lora_up"),
}


@pytest.mark.parametrize("renaming", RENAMED)
def test_a6_tensors_by_other_names_are_refused(tiny_model: Path, tmp_path: Path, renaming: str) -> None:
    saved(tiny_model, KINDS["LoRA"](), tmp_path / "it")
    change_weights(tmp_path / "it", lambda tensors: {RENAMED[renaming](k): v for k, v in tensors.items()})
    with pytest.raises(UserError) as refusal:
        load(tiny_model, tmp_path / "it")
    text = str(refusal.value)
    assert text.startswith(
        f"adapter.path: {tmp_path / 'it'}/adapter_model.safetensors does not fit: it contains tensors"
    )
    assert "; it lacks tensors that its config requires: base_model.model.model.layers." in text
    assert text.count(" and ") == 2, "the first is named, the others counted"
    assert "\n" not in text


def test_a6_half_of_the_layers_is_not_the_adapter(tiny_model: Path, tmp_path: Path) -> None:
    saved(tiny_model, KINDS["LoRA"](), tmp_path / "it")
    change_weights(tmp_path / "it", lambda tensors: {k: v for k, v in tensors.items() if "layers.0" in k})
    message = r" does not fit: it lacks tensors that its config requires: \S+layers\.1\.\S+lora_A\.weight and 1 more$"
    with pytest.raises(UserError, match=message):
        load(tiny_model, tmp_path / "it")


def test_a6_what_nothing_reads_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    saved(tiny_model, KINDS["prompt"](), tmp_path / "it")
    change_weights(tmp_path / "it", lambda tensors: tensors | {"extra": torch.ones(2)})
    with pytest.raises(UserError, match=r" does not fit: it contains tensors that do not exist in the model: extra$"):
        load(tiny_model, tmp_path / "it")


def test_a6_names_with_the_name_of_the_adapter_in_them_are_peft_s_own(tiny_model: Path, tmp_path: Path) -> None:
    tuned = saved(tiny_model, KINDS["LoRA"](), tmp_path / "it")
    change_weights(
        tmp_path / "it", lambda tensors: {k.replace(".weight", ".default.weight"): v for k, v in tensors.items()}
    )
    settings = read_config(tmp_path / "it")
    found = load(tiny_model, tmp_path / "it")
    torch.testing.assert_close(answer_to_probe(found, settings, 0), answer_to_probe(tuned, settings, 0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(tiny_model: Path, tmp_path: Path, value: float) -> None:
    saved(tiny_model, KINDS["prompt"](), tmp_path / "it")
    change_weights(tmp_path / "it", lambda tensors: {k: torch.full_like(v, value) for k, v in tensors.items()})
    with pytest.raises(UserError, match=r"adapter_model\.safetensors contains NaN or infinity in prompt_embeddings$"):
        load(tiny_model, tmp_path / "it")


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="CAUSAL_LM"),
        IA3Config(task_type="CAUSAL_LM", target_modules=["v_proj"], feedforward_modules=[]),
        LoraConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"]),
        LoraConfig(task_type="CAUSAL_LM", trainable_token_indices=[3]),
    ],
)
def test_an_adapter_that_changes_nothing_is_said_to(
    tiny_model: Path, tmp_path: Path, config: PeftConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_by_peft(tiny_model, config, tmp_path / "it")
    capsys.readouterr()
    load(tiny_model, tmp_path / "it")
    message = f"warning: adapter.path: {tmp_path / 'it'} changes nothing: the output is that of the base model"
    assert capsys.readouterr().err.startswith(message)


def test_an_adapter_of_single_words_is_no_idle_one(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = saved_by_peft(tiny_model, LoraConfig(task_type="CAUSAL_LM", modules_to_save=["embed_tokens"]), tmp_path)
    with torch.no_grad():
        tuned.get_input_embeddings().modules_to_save["default"].weight[325].add_(1.0)
    tuned.save_pretrained(str(tmp_path))
    capsys.readouterr()
    load(tiny_model, tmp_path)
    assert capsys.readouterr().err == ""


def test_an_adapter_that_the_model_does_not_heed_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    saved(tiny_model, KINDS["LoRA"](), tmp_path / "it")
    change_config(tmp_path / "it", lora_alpha=0)
    message = r"^adapter\.path: \S+ has no effect: the output of \S+ is the same for any values of this LORA adapter$"
    with pytest.raises(UserError, match=message):
        load(tiny_model, tmp_path / "it")


def test_the_probe_leaves_the_adapter_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    saved(tiny_model, KINDS["LoRA, norm"](), tmp_path / "it")
    found = load(tiny_model, tmp_path / "it")
    found.save_pretrained(str(tmp_path / "again"))
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("it", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"layer_replication": [[0, 2], [1, 2]]},
        {"bias": "all"},
    ],
)
def test_an_adapter_that_changes_the_base_itself_is_said_to(
    tiny_model: Path, tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attention_bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "base")
    tuned = saved(tmp_path / "base", LoraConfig(**LORA | change), tmp_path / "it")
    plain = load_base(tmp_path / "base")[0]
    capsys.readouterr()
    torch.manual_seed(1)
    found = load(tmp_path / "base", tmp_path / "it")
    said = f"warning: adapter.path: {tmp_path / 'it'} changes weights or layers of {tmp_path / 'base'} itself, so "
    assert capsys.readouterr().err.startswith(said)
    assert not has_base(found)
    assert not any(p.requires_grad for p in found.parameters())
    settings = read_config(tmp_path / "it")
    torch.testing.assert_close(answer_to_probe(found, settings, 0), answer_to_probe(tuned, settings, 0))
    with found.disable_adapter():
        off = answer_to_probe(found.get_base_model(), settings, 0)
    assert not torch.equal(off, answer_to_probe(plain, settings, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_leaves_the_base_alone_gives_it_back(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    saved(tiny_model, KINDS[kind](), tmp_path / "it")
    found = load(tiny_model, tmp_path / "it")
    assert has_base(found)
    assert not any(p.requires_grad for p in found.parameters())
    settings = read_config(tmp_path / "it")
    with without_adapter(found):
        off = answer_to_probe(found.get_base_model(), settings, 0)
    assert torch.equal(off, answer_to_probe(load_base(tiny_model)[0], settings, 0))


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_base_is_given_back(wider_model: Path, tmp_path: Path, quantization: Any) -> None:
    saved(wider_model, KINDS["LoRA"](), tmp_path / "it")
    base = load_base_model(ModelConfig(str(wider_model), quantization=quantization), torch.device("cpu"))[0]
    assert has_base(load_adapter(base, AdapterConfig(str(tmp_path / "it"))))


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=5),
        PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=5),
        PromptEncoderConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=5, encoder_hidden_size=16),
        LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q"], init_lora_weights=False),
    ],
)
def test_adapters_of_an_encoder_decoder_arrive(
    tiny_t5: Path, tmp_path: Path, config: PeftConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(tiny_t5), config).eval()
    tuned.save_pretrained(str(tmp_path / "it"))
    capsys.readouterr()
    found = load(tiny_t5, tmp_path / "it")
    assert capsys.readouterr().err == ""
    settings = read_config(tmp_path / "it")
    torch.testing.assert_close(answer_to_probe(found, settings, 0), answer_to_probe(tuned, settings, 0))
    change_weights(tmp_path / "it", lambda tensors: {f"module.{k}": v for k, v in tensors.items()})
    with pytest.raises(UserError, match="does not fit"):
        load(tiny_t5, tmp_path / "it")


def test_an_encoders_adapter_without_its_classifier_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    base: Any = AutoModelForSequenceClassification.from_pretrained(tiny_encoder)
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(str(tmp_path / "it"))
    (tmp_path / "it" / "base_model.json").write_text('{"choices": ["a", "b"]}', encoding="utf-8")

    def load_it() -> Any:
        fresh = load_base_model(ModelConfig(str(tiny_encoder)), torch.device("cpu"), ["a", "b"])[0]
        return load_adapter(fresh, AdapterConfig(str(tmp_path / "it")))

    load_it()
    whole = shutil.copytree(tmp_path / "it", tmp_path / "whole")
    change_weights(tmp_path / "it", lambda tensors: {k: v for k, v in tensors.items() if "classifier" not in k})
    with pytest.raises(UserError, match=r"classifier"):
        load_it()
    shutil.rmtree(tmp_path / "it")
    shutil.copytree(whole, tmp_path / "it")
    change_weights(tmp_path / "it", lambda tensors: {k: v for k, v in tensors.items() if "classifier" not in k})
    change_config(tmp_path / "it", task_type=None, modules_to_save=None)
    with pytest.raises(UserError, match=r"classifier"):
        load_it()
