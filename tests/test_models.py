"""Loading a frozen base model: plain, quantised, and everything that is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softprompts.config import ModelConfig
from softprompts.errors import UserError
from softprompts.models import count_parameters, load_base_model, max_positions, room_for

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, T5Config

CPU = torch.device("cpu")


def load(folder: Path, **settings: Any) -> Any:
    return load_base_model(ModelConfig(str(folder), **settings), CPU)


@pytest.fixture(scope="module")
def wider_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama with 64 dimensions: bitsandbytes quantises in blocks of 64 values of a row."""
    folder = tmp_path_factory.mktemp("wider")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_base_model_is_frozen_and_in_evaluation_mode(tiny_model: Path) -> None:
    model, tokenizer = load(tiny_model)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer("good").input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(tiny_model: Path, dtype: str) -> None:
    model, _ = load(tiny_model, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


def test_a_tokenizer_without_padding_token_pads_with_the_end_token(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _, tokenizer = load(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "is no model folder: it has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "is not a valid JSON file"),
        (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08"), "header too small"),
        (lambda f: T5Config().save_pretrained(f), "its weights have other shapes than"),
        (change_config, "cannot load"),
    ],
)
def test_damaged_folders(tiny_model: Path, tmp_path: Path, change: Callable[[Path], Any], message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    change(folder)
    with pytest.raises(UserError) as caught:
        load(folder)
    assert str(caught.value).startswith("model.name_or_path: ")
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nothing", r"no such folder: \./nothing"),
        ("/nothing/here", "no such folder: /nothing/here"),
        ("a/b/c", "no such folder: a/b/c"),
        ("someone/some-model", r'cannot load someone/some-model: .*; bundled models: "bundled:smollm2-135m-instruct"$'),
        ("bundled:smollm2", 'did you mean "smollm2-135m-instruct"'),
    ],
)
def test_names_that_cannot_be_had(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_base_model(ModelConfig(name), CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("quantization", "dtype"), [("nf4", "float32"), ("nf4", "bfloat16"), ("int8", "float32")])
def test_quantised_base_gives_the_gradient_of_its_own_weights(
    wider_model: Path, quantization: str, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A soft prompt learns through the base: the gradient must be that of a plain model with the rounded weights."""
    quantised, tokenizer = load(wider_model, quantization=quantization, dtype=dtype)
    plain, _ = load(wider_model)
    linears: dict[str, Any] = dict(plain.named_modules())
    replaced = 0
    for name, layer in quantised.named_modules():
        if isinstance(layer, (Linear4bit, Linear8bitLt)):
            linears[name].weight.data = dequantised(layer).float().reshape(linears[name].weight.shape)
            replaced += 1
    assert replaced == 14  # 7 in each of 2 layers; bitsandbytes leaves the output layer alone
    ids = torch.tensor([tokenizer("the film was lovely").input_ids])
    logits, gradients = [], []
    with torch.no_grad():  # a validation comes first, and must not change what the backward pass finds
        quantised(input_ids=ids)
    for model in (plain, quantised):
        embeds = plain.get_input_embeddings()(ids).detach().to(model.dtype).requires_grad_(True)
        output = model(inputs_embeds=embeds).logits.float()
        output.logsumexp(-1).sum().backward()
        assert embeds.grad is not None
        logits.append(output.detach().flatten())
        gradients.append(embeds.grad.float().flatten())
    assert torch.cosine_similarity(*logits, dim=0) > 0.995
    assert torch.cosine_similarity(*gradients, dim=0) > 0.995
    assert not any(p.requires_grad for p in quantised.parameters())
    assert caplog.records == []  # it would repeat at every matrix product


def dequantised(layer: Any) -> torch.Tensor:
    if isinstance(layer, Linear4bit):
        return dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.weight.data.float() * layer.weight.SCB[:, None] / 127


def test_count_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    model[0].requires_grad_(False)
    count = count_parameters(model)
    assert (count.total, count.trainable) == (3 * 4 + 4 + 4 * 2, 4 * 2)


def test_room_beside_the_virtual_tokens(tiny_model: Path) -> None:
    model, _ = load(tiny_model)
    assert max_positions(model) == 256
    assert room_for(model, 20) == 236
    model.config = T5Config()  # relative positions: no limit
    assert room_for(model, 20) is None
