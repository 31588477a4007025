"""A file that is not an adapter's config, or an adapter for another model, is an error of one line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

from made_adapters import KINDS, LORA, SOFT, change_config, change_weights, load, saved
from method_runs import saved_by_peft
from softprompts.adapters.checks import answer_to_probe
from softprompts.adapters.configs import read_config
from softprompts.config.sections import ModelConfig
from softprompts.errors import UserError
from softprompts.models.loading import load_base_model

import pytest
import torch
from peft import (
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"peft_type": "SUPERDUPERTUNING"},
            'peft_type: PEFT does not know "SUPERDUPERTUNING" (did you mean "SUPERTUNING"?)',
        ),
        ({"peft_type": "lora"}, 'peft_type: PEFT does not know "lora" (did you mean "LORA"?)'),
        ({"peft_type": ["LORA"]}, 'peft_type: PEFT does not know "[\'LORA\']" (did you mean "LORA"?)'),
        ({"peft_type": None}, "has no peft_type, the kind of the adapter"),
        ({"task_type": "CAUSAL"}, 'task_type: PEFT does not know "CAUSAL" (did you mean "CAUSAL_LM"?)'),
        ({"num_virtual_tokens": "5"}, "num_virtual_tokens: expected int, found '5'"),
        ({"num_virtual_tokens": True}, "num_virtual_tokens: expected int, found True"),
        ({"num_transformer_submodules": [1]}, "num_transformer_submodules: expected int, found [1]"),
    ],
)
def test_a7_b9_a_config_that_is_none(tiny_model: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    saved(tiny_model, KINDS["prompt"](), tmp_path / "it")
    change_config(tmp_path / "it", **changes)
    with pytest.raises(UserError) as refusal:
        load(tiny_model, tmp_path / "it")
    assert str(refusal.value).startswith(f"adapter.path: {tmp_path / 'it'}/adapter_config.json")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("other", ["LORA", "IA3", "PREFIX_TUNING", "SUPERTUNING", "ADAPTION_PROMPT", "LN_TUNING"])
def test_a7_another_known_type_than_the_tensors_are_of(tiny_model: Path, tmp_path: Path, other: str) -> None:
    saved(tiny_model, KINDS["prompt"](), tmp_path / "it")
    change_config(tmp_path / "it", peft_type=other)
    with pytest.raises(UserError, match=r"^adapter\.path: \S+ does not fit") as refusal:
        load(tiny_model, tmp_path / "it")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["prompt", "prefix", "P-tuning", "multitask", "LoRA", "IA3"])
def test_a7_an_adapter_that_names_no_task_is_one_of_the_base_models(
    tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    tuned = saved(tiny_model, KINDS[kind](), tmp_path / "it")
    change_config(tmp_path / "it", task_type=None)
    found = load(tiny_model, tmp_path / "it")
    settings = read_config(tmp_path / "it")
    torch.testing.assert_close(answer_to_probe(found, settings, 0), answer_to_probe(tuned, settings, 0))


@pytest.mark.parametrize("task", ["SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"])
@pytest.mark.parametrize("kind", ["prompt", "LoRA"])
def test_a8_an_adapter_for_another_kind_of_task_is_refused(
    tiny_model: Path, tmp_path: Path, kind: str, task: str
) -> None:
    saved(tiny_model, KINDS[kind](), tmp_path / "it")
    change_config(tmp_path / "it", task_type=task)
    message = rf" has task_type {task}, but the base model is a decoder that continues a text: expected CAUSAL_LM$"
    with pytest.raises(UserError, match=message):
        load(tiny_model, tmp_path / "it")


def test_a8_a_decoder_that_classifies_is_no_language_model(tiny_model: Path, tmp_path: Path) -> None:
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False)
    base: Any = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    get_peft_model(base, config).save_pretrained(str(tmp_path / "it"))
    with pytest.raises(UserError, match=r" has task_type SEQ_CLS, but the base model is a decoder"):
        load(tiny_model, tmp_path / "it")
    base.save_pretrained(tmp_path / "whole")
    with pytest.raises(
        UserError, match=r"^model\.name_or_path: \S+ is a LlamaForSequenceClassification, which classifies"
    ):
        load_base_model(ModelConfig(str(tmp_path / "whole")), torch.device("cpu"))


BROKEN: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda f: (f / "adapter_config.json").write_text('{"peft_type": "PRO', encoding="utf-8"),
    "a list": lambda f: (f / "adapter_config.json").write_text("[]", encoding="utf-8"),
    "nested deep": lambda f: (f / "adapter_config.json").write_text("[" * 100_000, encoding="utf-8"),
    "no text": lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe{}"),
    "no keys": lambda f: (f / "adapter_config.json").write_text("{}", encoding="utf-8"),
    "no prompt": lambda f: save_file({"other": torch.ones(5, 32)}, f / "adapter_model.safetensors"),
    "no tensors": lambda f: save_file({}, f / "adapter_model.safetensors"),
    "empty": lambda f: (f / "adapter_model.safetensors").write_bytes(b""),
    "huge header": lambda f: (f / "adapter_model.safetensors").write_bytes(b"\xff" * 7 + b"\x7f" + b"{}"),
    "more tokens": lambda f: change_config(f, num_virtual_tokens=9),
    "no tokens": lambda f: change_config(f, num_virtual_tokens=0),
    "fewer than none": lambda f: change_config(f, num_virtual_tokens=-5),
    "null tokens": lambda f: change_config(f, num_virtual_tokens=None),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_b9_a_damaged_adapter_is_one_line(tiny_model: Path, tmp_path: Path, fault: str) -> None:
    saved(tiny_model, KINDS["prompt"](), tmp_path / "it")
    BROKEN[fault](tmp_path / "it")
    with pytest.raises(UserError, match=r"^adapter\.path: ") as refusal:
        load(tiny_model, tmp_path / "it")
    assert str(tmp_path / "it") in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 800


@pytest.mark.parametrize(
    ("kind", "key"),
    [("prompt", "num_virtual_tokens"), ("prefix", "token_dim"), ("multitask", "num_tasks"), ("LoRA", "r")],
)
def test_b9_a_size_that_would_fill_the_memory_is_one_line(
    tiny_model: Path, tmp_path: Path, kind: str, key: str
) -> None:
    saved(tiny_model, KINDS[kind](), tmp_path / "it")
    change_config(tmp_path / "it", **{key: 10**15})
    message = (
        rf"^adapter\.path: {tmp_path}/it: {key} is 1000000000000000 in its config, and its largest tensor has \d+ rows"
    )
    with pytest.raises(UserError, match=message):
        load(tiny_model, tmp_path / "it")


@pytest.mark.parametrize(("key", "value"), [("rank_pattern", {"q_proj": 10**15}), ("layer_replication", [[0, 10**15]])])
def test_sizes_inside_of_a_value_are_checked_too(tiny_model: Path, tmp_path: Path, key: str, value: Any) -> None:
    saved(tiny_model, KINDS["LoRA"](), tmp_path / "it")
    change_config(tmp_path / "it", **{key: value})
    with pytest.raises(UserError, match=rf"it: {key} holds 1000000000000000 in its config, and its largest tensor has"):
        load(tiny_model, tmp_path / "it")


# Sizes that the tensors of a file do not bound. Each is little more than the limit, about 130 MB.
LARGE: dict[str, tuple[PeftConfig, dict[str, Any]]] = {
    "submodules": (PromptTuningConfig(**SOFT), {"num_transformer_submodules": 200_000}),
    "LoHa": (LoHaConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=4), {"r": 1_000_000}),
    "VeRA": (VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=4), {"r": 1_000_000}),
    "VB-LoRA": (
        VBLoRAConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2, num_vectors=8, vector_length=4),
        {"num_vectors": 10_000_000},
    ),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_size_of_any_type_is_refused_before_it_fills_the_memory(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    config, change = LARGE[kind]
    saved_by_peft(tiny_model, config, tmp_path / "it")
    load(tiny_model, tmp_path / "it")
    change_config(tmp_path / "it", **change)
    with pytest.raises(UserError, match=r"^adapter\.path: .*/it does not fit \S+: it needs [0-9,]+ numbers or more in"):
        load(tiny_model, tmp_path / "it")


def test_layers_may_be_used_again_up_to_a_limit(tiny_model: Path, tmp_path: Path) -> None:
    saved(tiny_model, LoraConfig(**LORA, layer_replication=[[0, 2], [0, 2]]), tmp_path / "it")
    load(tiny_model, tmp_path / "it")
    change_config(tmp_path / "it", layer_replication=[[0, 2]] * 3000)
    message = r"it: layer_replication makes 6000 layers in its config, and its file has only 8 tensors$"
    with pytest.raises(UserError, match=message):
        load(tiny_model, tmp_path / "it")
    for other in ([[0]] * 2, ["ab"], [[]], 3):
        change_config(tmp_path / "it", layer_replication=other)
        with pytest.raises(UserError, match=r"^adapter\.path: "):
            load(tiny_model, tmp_path / "it")


@pytest.mark.parametrize("kind", ["LoRA, modules", "LoRA, tokens", "LoRA, norm", "multitask"])
def test_b9_what_is_saved_with_an_adapter_must_be_there(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    saved(tiny_model, KINDS[kind](), tmp_path / "it")
    names = sorted(load_file(tmp_path / "it" / "adapter_model.safetensors"))
    lost = next(name for name in names if not name.endswith(("lora_A.weight", "lora_B.weight", "prompt_embeddings")))
    change_weights(tmp_path / "it", lambda tensors: {k: v for k, v in tensors.items() if k != lost})
    with pytest.raises(UserError, match=r"^adapter\.path: .* does not fit") as refusal:
        load(tiny_model, tmp_path / "it")
    assert lost in str(refusal.value)


class Bang:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_by_another_name_is_not_executed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tiny_model, KINDS["prompt"](), tmp_path / "it")
    (tmp_path / "it" / "adapter_model.safetensors").write_bytes(pickle.dumps(Bang()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is not a safetensors file, or is damaged: "):
        load(tiny_model, tmp_path / "it")
    assert not (tmp_path / "executed").exists()


def test_modules_and_files_that_a_config_names_are_not_reached(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tiny_model, KINDS["LoRA"](), tmp_path / "lora")
    (tmp_path / "evil_module.py").write_text("from pathlib import Path\nPath('executed').touch()\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    change_config(tmp_path / "lora", megatron_config={"a": 1}, megatron_core="evil_module")
    with pytest.raises(
        UserError, match=r"megatron_config: such an adapter imports the module that megatron_core names"
    ):
        load(tiny_model, tmp_path / "lora")
    change_config(tmp_path / "lora", megatron_config=None, peft_type="XLORA", adapters={"0": "/somewhere/else"})
    with pytest.raises(UserError, match="adapters: such an adapter loads further adapters, which is not supported"):
        load(tiny_model, tmp_path / "lora")
    assert not (tmp_path / "executed").exists()
    saved(tiny_model, KINDS["multitask"](), tmp_path / "tasks")
    change_config(
        tmp_path / "tasks", prompt_tuning_init="ONLY_SOURCE_SHARED", prompt_tuning_init_state_dict_path="/not/there.bin"
    )
    assert isinstance(load(tiny_model, tmp_path / "tasks"), PeftModel), "all of it is in its own file"


@pytest.mark.parametrize("way", ["pissa_niter_4", "PISSA_NITER_16", "corda", "lora_ga"])
def test_lora_that_does_not_load_as_it_was_saved_is_refused_with_the_remedy(
    tiny_model: Path, tmp_path: Path, way: str
) -> None:
    saved(tiny_model, KINDS["LoRA"](), tmp_path / "it")
    change_config(tmp_path / "it", init_lora_weights=way)
    message = rf"^adapter\.path: \S+: init_lora_weights {way}: .* save_pretrained\(path_initial_model_for_weight_conv"
    with pytest.raises(UserError, match=message):
        load(tiny_model, tmp_path / "it")


def test_every_way_to_begin_that_peft_has_is_known_to_load_or_not_to() -> None:
    hint = get_type_hints(LoraConfig)["init_lora_weights"]
    found = {value.partition("[")[0] for part in get_args(hint) for value in get_args(part)}
    known = {"gaussian", "eva", "olora", "pissa", "pissa_niter_", "corda", "loftq", "orthogonal", "mica"}
    assert found == known, "see what a new one does to the base model when it is loaded"


@pytest.mark.parametrize("tokens", [[33, 70], [390]])
def test_an_adapter_that_waits_for_tokens_is_refused_for_that(
    tiny_model: Path, tmp_path: Path, tokens: list[int]
) -> None:
    saved(tiny_model, LoraConfig(**LORA, alora_invocation_tokens=tokens), tmp_path / "it")
    with pytest.raises(UserError, match=r"alora_invocation_tokens: such an adapter works only after these tokens"):
        load(tiny_model, tmp_path / "it")
    change_config(tmp_path / "it", alora_invocation_tokens=None)
    assert isinstance(load(tiny_model, tmp_path / "it"), PeftModel)


def test_keys_that_this_version_of_peft_does_not_know_are_no_fault(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tiny_model, KINDS["prompt"](), tmp_path / "it")
    change_config(tmp_path / "it", something_new={"a": [1]}, another=False, peft_version="99.0")
    capsys.readouterr()
    assert isinstance(load(tiny_model, tmp_path / "it"), PeftModel)
    said = f"{tmp_path}/it/adapter_config.json: this version of PEFT ignores the unknown something_new\n"
    assert capsys.readouterr().err == f"warning: adapter.path: {said}"
