"""An adapter identifies its base model by its weights, loaded in any type, or without weights by its name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import load_base, prompt_config
from made_adapters import KINDS, load, saved
from made_tokenizers import metaspace_bytes, unigram, wordpiece, words
from softprompts.adapters.loading import load_adapter
from softprompts.config.sections import ModelConfig, RunConfig
from softprompts.config.tools import AdapterConfig
from softprompts.errors import UserError
from softprompts.methods.baselines.lora import add_lora
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.identity.base_model import (
    RECORD,
    Identity,
    Record,
    identity_of,
    read_record,
    same_name,
    same_weights,
)
from softprompts.models.identity.facts import facts_of
from softprompts.models.identity.settings import tokenizer_digests
from softprompts.models.loading import load_base_model
from softprompts.reports.run import save_adapter
from softprompts.runs.run import start_run

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TYPES = ["float32", "bfloat16", "float16"]


def trained(base: Path, folder: Path, dtype: str = "float32", lora: bool = False) -> Path:
    """Save an adapter of a base model as a run does; return its folder."""
    model, tokenizer = load_base(base, dtype)
    run = start_run("test", run=RunConfig(str(folder), trackers=[]))
    if lora:  # whose layers hold the base model's, and whose biases are trained in place
        config = LoraConfig(r=2, target_modules=["q_proj"], bias="all", init_lora_weights=False)
        return save_adapter(add_lora(model, config, seed=0), run)
    return save_adapter(add_soft_prompt(model, tokenizer, prompt_config(base), seed=0), run)


def other_weights(base: Path, folder: Path, change: Callable[[torch.Tensor], torch.Tensor], name: str) -> Path:
    """Copy a model with one of its tensors changed."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("lora", [False, True])
def test_a18_a_base_of_the_same_name_with_other_weights_is_refused(
    tiny_model: Path, tmp_path: Path, lora: bool
) -> None:
    adapter = trained(tiny_model, tmp_path / "run", lora=lora)
    assert isinstance(load(tiny_model, adapter), PeftModel)
    other = other_weights(
        tiny_model, tmp_path / "4b" / "model", lambda t: t + 0.01, "model.layers.1.mlp.up_proj.weight"
    )
    message = rf"^adapter\.path: {adapter} was trained on {tiny_model}, but {other} has other weights; to use it"
    with pytest.raises(UserError, match=message):
        load(other, adapter)
    assert isinstance(load(other, adapter, any_base=True), PeftModel)


@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"])
def test_a18_one_number_is_enough_to_be_another_model(tiny_model: Path, tmp_path: Path, name: str) -> None:
    def one(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[7] += 0.01
        return tensor

    base = load_base(tiny_model)[0]
    other = load_base(other_weights(tiny_model, tmp_path / "it", one, name))[0]
    assert same_weights(identity_of(base), identity_of(other)) is False


def test_a_base_under_another_name_is_known_by_its_weights(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = trained(tiny_model, tmp_path / "run")
    copy = Path(shutil.copytree(tiny_model, tmp_path / "elsewhere" / "renamed"))
    assert isinstance(load(copy, adapter), PeftModel)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("file", TYPES)
@pytest.mark.parametrize("first", TYPES)
@pytest.mark.parametrize("second", TYPES)
def test_the_same_file_is_the_same_model_in_every_type(
    tiny_model: Path, tmp_path: Path, file: str, first: str, second: str
) -> None:
    tokenizer = load_base(tiny_model)[1]
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, file)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    one, two = (identity_of(load_base(tmp_path, dtype)[0]) for dtype in (first, second))
    apart = {first, second} == {"bfloat16", "float16"}
    assert same_weights(one, two) is (None if apart else True)


@pytest.mark.parametrize("dtype", TYPES)
def test_training_in_one_type_and_scoring_in_another_goes(
    tiny_model: Path, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = trained(tiny_model, tmp_path / "run", dtype)
    for other in TYPES:
        base = load_base(tiny_model, other)[0]
        assert isinstance(load_adapter(base, AdapterConfig(str(adapter))), PeftModel)
    assert capsys.readouterr().err == ""


def test_of_a_quantised_base_names_and_sizes_are_compared(wider_model: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = ModelConfig(str(wider_model), dtype="float32", quantization="nf4")
    base, tokenizer = load_base_model(config, torch.device("cpu"))
    assert identity_of(base).weights == {}
    run = start_run("test", run=RunConfig(str(tmp_path / "run"), trackers=[]))
    adapter = save_adapter(add_soft_prompt(base, tokenizer, prompt_config(wider_model), seed=0), run)
    assert isinstance(load(wider_model, adapter), PeftModel)
    other = other_weights(wider_model, tmp_path / "other" / "model", lambda t: t + 0.01, "model.norm.weight")
    with pytest.raises(UserError, match=rf"was trained on {wider_model}, not on {other}; if they are the same"):
        load(other, adapter)
    with pytest.raises(UserError, match=r"is for another base model: hidden size 64, but \S+ has 32 "):
        load(tiny_model, adapter)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "mistral"}, "architecture mistral, but "),
        ({"sizes": {"hidden_size": 32, "intermediate_size": 65}}, "intermediate size 65, but "),
        ({"sizes": {"num_attention_heads": 8}}, "attention heads 8, but "),
    ],
)
def test_another_architecture_or_size_is_refused_whatever_is_said(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    adapter = trained(tiny_model, tmp_path / "run")
    record = json.loads((adapter / RECORD).read_text(encoding="utf-8"))
    (adapter / RECORD).write_text(json.dumps(record | changes), encoding="utf-8")
    for any_base in (False, True):
        with pytest.raises(UserError, match=f" is for another base model: {message}"):
            load(tiny_model, adapter, any_base=any_base)


def changed_base(base: Path, folder: Path, file: str, **changes: Any) -> Path:
    """Copy a model with other fields in one of its JSON files."""
    shutil.copytree(base, folder)
    read = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(read | changes), encoding="utf-8")
    return folder


LOWER = {"normalizer": {"type": "Lowercase"}}


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("config.json", {"rms_norm_eps": 0.1}, "rms_norm_eps 0.1 in its config instead of 1e-06"),
        (
            "config.json",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
            "rope_parameters.rope_theta 500.0 in its config instead of 10000.0",
        ),
        ("tokenizer.json", LOWER, "another tokenizer (different normalizer)"),
        ("tokenizer.json", {"post_processor": None}, "another tokenizer (different post-processor)"),
        ("tokenizer.json", {"decoder": None}, "another tokenizer (different decoder)"),
        ("tokenizer_config.json", {"eos_token": "<pad>"}, "another tokenizer (different special tokens)"),
    ],
)
def test_a_base_with_the_same_weights_but_another_config_or_tokenizer_is_refused(
    tiny_model: Path, tmp_path: Path, file: str, changes: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = trained(tiny_model, tmp_path / "run")
    other = changed_base(tiny_model, tmp_path / "other", file, **changes)
    message = rf"^adapter\.path: {adapter} was trained on {tiny_model}, but {other} has {re.escape(said)}; to use it"
    with pytest.raises(UserError, match=message):
        load(other, adapter)
    assert isinstance(load(other, adapter, any_base=True), PeftModel)
    record = json.loads((adapter / RECORD).read_text(encoding="utf-8"))
    del record["config"], record["tokenizer"]
    (adapter / RECORD).write_text(json.dumps(record), encoding="utf-8")
    capsys.readouterr()
    assert isinstance(load(other, adapter), PeftModel), "an adapter of an older version"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (
            "config.json",
            {"use_cache": False, "dtype": "bfloat16", "architectures": None, "transformers_version": "9.9"},
        ),
        ("config.json", {"_name_or_path": "elsewhere", "of_a_newer_version": 3, "output_hidden_states": True}),
        ("config.json", {"id2label": {"0": "a", "1": "b", "2": "c"}}),
        ("tokenizer.json", {"padding": None, "truncation": None}),
        ("tokenizer_config.json", {"pad_token": "</s>"}),
    ],
)
def test_a_base_that_is_only_loaded_or_saved_otherwise_is_the_same(
    tiny_model: Path, tmp_path: Path, file: str, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = trained(tiny_model, tmp_path / "run")
    other = changed_base(tiny_model, tmp_path / "other", file, **changes)
    capsys.readouterr()
    assert isinstance(load_adapter(load_base(other)[0], AdapterConfig(str(adapter))), PeftModel)
    assert capsys.readouterr().err == ""


def test_another_chat_template_is_said(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = trained(tiny_model, tmp_path / "run")
    other = changed_base(tiny_model, tmp_path / "other", "tokenizer_config.json", chat_template="{{ messages }}")
    capsys.readouterr()
    assert isinstance(load(other, adapter), PeftModel)
    assert capsys.readouterr().err == (
        f"warning: adapter.path: {adapter} was trained on {tiny_model} with another chat template than "
        f"that of {other}\n"
    )


@pytest.mark.parametrize("made", [unigram, metaspace_bytes, wordpiece, words])
def test_a_tokenizer_that_is_saved_and_used_is_the_same(tmp_path: Path, made: Callable[[], Any]) -> None:
    made().save_pretrained(tmp_path / "one")
    first = AutoTokenizer.from_pretrained(tmp_path / "one")
    before = tokenizer_digests(first)
    first(["the film", "it"], truncation=True, max_length=3, padding=first.pad_token is not None)
    assert tokenizer_digests(first) == before
    first.save_pretrained(tmp_path / "two")
    assert tokenizer_digests(AutoTokenizer.from_pretrained(tmp_path / "two")) == before


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("runs/4a/model", "runs/4b/model", False),
        ("runs/4a/model", "/abs/runs/4a/Model", True),
        ("runs/4a/checkpoint-500", "runs/4b/checkpoint-500", False),
        ("a/final", "b/final", False),
        ("a/merged", "b/merged", False),
        ("a/merged_model/", "b/merged_model", False),
        ("a/checkpoints/step-100/hf", "b/checkpoints/step-100/hf", False),
        ("a/global_step100", "b/global_step100", False),
        ("a/output", "b/output", False),
        ("x/smollm2-135m", "y/SmolLM2-135M", True),
        ("org/llama-7b", "/models/llama-7b", True),
        ("org/llama-7b", "/models/llama-13b", False),
        ("org/llama", "/models/llama/model", False),
        ("model", "b/model", None),
        ("./model", "/work/b/model", None),
        ("../checkpoint-500", "b/checkpoint-500", None),
        ("final", "final", None),
        ("/model", "/model", None),
    ],
)
def test_a18_names_are_compared_as_far_as_they_tell(one: str, other: str, same: bool | None) -> None:
    assert same_name(one, other) is same
    assert same_name(other, one) is same


def test_a18_what_names_do_not_tell_is_said(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tiny_model, KINDS["prompt"](), tmp_path / "it")
    file = tmp_path / "it" / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    for name, said in (("final", "final"), (None, "an unnamed model")):
        file.write_text(json.dumps(settings | {"base_model_name_or_path": name}), encoding="utf-8")
        capsys.readouterr()
        load(tiny_model, tmp_path / "it")
        message = f"was trained on {said}; nothing shows whether this is {tiny_model}\n"
        assert capsys.readouterr().err == f"warning: adapter.path: {tmp_path / 'it'} {message}"


def test_stock_peft_loads_what_has_a_record_beside_it(tiny_model: Path, tmp_path: Path) -> None:
    adapter = trained(tiny_model, tmp_path / "run")
    record = read_record(adapter)
    base, _ = load_base(tiny_model)
    assert record.base == facts_of(base).identity
    assert record.choices is None
    assert RECORD not in (adapter / "adapter_config.json").read_text(encoding="utf-8")
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(adapter))


def test_weights_that_training_moves_are_not_the_base_models(tiny_model: Path, tmp_path: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    model = add_soft_prompt(base, tokenizer, prompt_config(tiny_model), seed=0)
    with torch.no_grad():
        base.get_input_embeddings().weight.add_(0.1)
    run = start_run("test", run=RunConfig(str(tmp_path / "run"), trackers=[]))
    assert isinstance(load(tiny_model, save_adapter(model, run)), PeftModel), "as it was loaded"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        '{"weights": {}}',
        '{"choices": "a"}',
        '{"choices": [1]}',
        "[" * 100_000,
        '{"name": 1, "architecture": "llama", "sizes": {}, "weights": {}}',
        '{"name": "a", "architecture": "llama", "sizes": [], "weights": {}}',
        '{"name": "a", "architecture": "llama", "sizes": {}, "weights": {"float32": 3}}',
        '{"name": "a", "architecture": "llama", "sizes": {}, "weights": {}, "config": []}',
        '{"name": "a", "architecture": "llama", "sizes": {}, "weights": {}, "tokenizer": {"model": 1}}',
        '{"name": "a", "architecture": "llama", "sizes": {}, "weights": {}, "tokenizer": 1}',
    ],
)
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"^adapter\.path: {tmp_path}/base_model\.json is damaged: .*") as refusal:
        read_record(tmp_path)
    assert "\n" not in str(refusal.value)
    (tmp_path / RECORD).write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is damaged"):
        read_record(tmp_path)


def test_without_a_record_nothing_is_known(tmp_path: Path) -> None:
    assert read_record(tmp_path) == Record()
    (tmp_path / RECORD).write_text('{"something": "else"}', encoding="utf-8")
    assert read_record(tmp_path) == Record()
    assert same_weights(Identity("a", "b", {}, {}), Identity("a", "b", {}, {"float32": "c"})) is None
