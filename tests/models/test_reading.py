"""Damaged folders of base models: each gives one line with the file, and with the key if one is the cause."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softprompts.config.sections import ModelConfig
from softprompts.errors import UserError
from softprompts.models.loading import load_base_model, load_model_config
from softprompts.models.reading import reading

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

CPU = torch.device("cpu")
NO_OBJECTS = {
    "[]": "expected a JSON object, found []",
    "null": "expected a JSON object, found null",
    '"x"': 'expected a JSON object, found "x"',
    "5": "expected a JSON object, found 5",
    "": "not valid JSON: Expecting value",
    '{"a": 1': "not valid JSON: Expecting",
    '\ufeff{"a": 1}': "not valid JSON: Unexpected UTF-8 BOM",
    "[" * 5000 + "]" * 5000: "is nested too deeply",
}
SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
FILES = (*SETTINGS, "added_tokens.json", "tokenizer.json")


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_base_model(ModelConfig(str(folder)), CPU, ["a", "b"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(file: Path, *keys: str, to: Any) -> None:
    whole = json.loads(file.read_text()) if file.exists() else {}
    inner = whole
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    file.write_text(json.dumps(whole))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("text", "message"), NO_OBJECTS.items(), ids=range(len(NO_OBJECTS)))
def test_a_settings_file_that_is_no_json_object_is_named(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text, encoding="utf-8")
    assert refusal(folder).startswith(f"model.name_or_path: {folder / file}: {message}")


@pytest.mark.parametrize("file", [*FILES, "chat_template.jinja"])
def test_a_settings_file_that_is_not_utf8_is_named(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b'{"a":"\xe9"}')
    assert refusal(folder) == f"model.name_or_path: {folder / file}: not UTF-8 (byte 6)"


@pytest.mark.parametrize("file", SETTINGS[1:])
def test_a_folder_in_place_of_a_settings_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink(missing_ok=True)
    (folder / file).mkdir()
    assert refusal(folder) == f"{folder / file}: expected a file, found a folder"


def test_damaged_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("null")
    where = f"model.name_or_path: {folder / 'model.safetensors.index.json'}: "
    assert refusal(folder) == f"{where}expected a JSON object, found null"
    names = load_file(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_base_model(ModelConfig(str(folder)), CPU)
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"x")
    assert refusal(folder).endswith(
        ": model-00001-of-00001.safetensors: Error while deserializing header: header too small"
    )


CONFIGS = [
    ("hidden_size", "32"),
    ("hidden_size", None),
    ("vocab_size", None),
    ("vocab_size", 0),
    ("head_dim", "8"),
    ("num_attention_heads", 0),
    ("num_key_value_heads", 0),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", -1),
    ("pad_token_id", 99999),
    ("eos_token_id", [[1]]),
    ("eos_token_id", -1),
    ("hidden_act", "nope"),
    ("rope_parameters", {"rope_theta": "x", "rope_type": "default"}),
    ("attn_implementation", 5),
    ("model_type", ["llama"]),
    ("dtype", "foo"),
    ("id2label", ["a"]),
    ("quantization_config", "x"),
    ("auto_map", 5),
    ("text_config", "x"),
    ("text_config", {}),
    ("architectures", 5),
    ("architectures", [5]),
    ("architectures", "LlamaForCausalLM"),
]


@pytest.mark.parametrize(("key", "value"), CONFIGS)
def test_a_value_of_the_config_that_does_not_work_is_named(folder: Path, key: str, value: Any) -> None:
    change(folder / "config.json", key, to=value)
    (folder / "generation_config.json").unlink()
    message = refusal(folder)
    assert "config.json" in message
    assert key in message


GENERATION = [
    ("watermarking_config", "x"),
    ("watermarking_config", {"a": 1}),
    ("cache_implementation", "nope"),
    ("pad_token_id", "x"),
    ("eos_token_id", "a"),
    ("eos_token_id", [1, "x"]),
    ("eos_token_id", [[1]]),
    ("eos_token_id", -1),
    ("eos_token_id", 1.5),
]


@pytest.mark.parametrize(("key", "value"), GENERATION)
def test_a_value_of_the_generation_settings_that_does_not_work_is_named(folder: Path, key: str, value: Any) -> None:
    change(folder / "generation_config.json", key, to=value)
    assert refusal(folder).startswith(f"model.name_or_path: {folder / 'generation_config.json'}: {key}")


TOKENIZERS = [
    ("eos_token", 5),
    ("eos_token", ["a"]),
    ("eos_token", {"content": "</s>"}),
    ("pad_token", 5),
    ("additional_special_tokens", "x"),
    ("additional_special_tokens", [5]),
    ("extra_special_tokens", {"a": 5}),
    ("added_tokens_decoder", "x"),
    ("added_tokens_decoder", {"a": "b"}),
    ("tokenizer_class", 5),
    ("tokenizer_class", "T5Tokenizer"),
    ("tokenizer_class", "BertTokenizer"),
    ("model_max_length", "x"),
    ("chat_template", ["a"]),
    ("padding_side", "up"),
    ("split_special_tokens", "x"),
    ("auto_map", "x"),
]


@pytest.mark.parametrize(("key", "value"), TOKENIZERS)
def test_a_value_of_the_tokenizers_settings_that_does_not_work_is_named(folder: Path, key: str, value: Any) -> None:
    change(folder / "tokenizer_config.json", key, to=value)
    assert refusal(folder).startswith(f"model.name_or_path: {folder / 'tokenizer_config.json'}: {key}")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("version",), 5),
        (("padding",), "x"),
        (("model",), None),
        (("model", "type"), "Nope"),
        (("model", "vocab"), {}),
        (("added_tokens",), None),
        (("decoder",), {"type": "Nope"}),
    ],
)
def test_a_damaged_tokenizer_file_is_named(folder: Path, keys: tuple[str, ...], value: Any) -> None:
    change(folder / "tokenizer.json", *keys, to=value)
    assert refusal(folder).startswith(f"model.name_or_path: {folder / 'tokenizer.json'}: ")


def test_the_config_alone_is_checked_likewise(folder: Path) -> None:
    change(folder / "config.json", "num_attention_heads", to=0)
    with pytest.raises(UserError, match=r"config\.json: num_attention_heads 0: ZeroDivisionError: "):
        load_model_config(ModelConfig(str(folder)))


def test_weights_that_the_model_has_no_place_for_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder / "config.json", "num_hidden_layers", to=1)
    load_base_model(ModelConfig(str(folder)), CPU)
    assert capsys.readouterr().err == (
        f"warning: model.name_or_path: {folder} holds 9 weights that its config.json has no place for, and that "
        "are not used, the first: model.layers.1.input_layernorm.weight\n"
    )


def with_old_buffers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_pretraining_head(folder: Path) -> None:
    own = json.loads((folder / "config.json").read_text())
    sizes = {key: own[key] for key in ("vocab_size", "hidden_size", "intermediate_size")}
    config = BertConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, pad_token_id=own["pad_token_id"])
    BertForMaskedLM(config).save_pretrained(folder)


@pytest.mark.parametrize("more", [lambda _: None, with_old_buffers, with_pretraining_head])
def test_weights_that_no_model_needs_are_not_said(
    folder: Path, capsys: pytest.CaptureFixture[str], more: Callable[[Path], None]
) -> None:
    more(folder)
    capsys.readouterr()  # the bar of saving
    load_base_model(ModelConfig(str(folder)), CPU, ["a", "b"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_full_memory_is_no_fault_of_the_model(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"^out of memory while a/model is read: provide more memory$"),
        reading("a/model"),
    ):
        raise error
