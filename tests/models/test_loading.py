"""Loading a frozen base model: plain, quantised, and folders without a valid model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softprompts.config.sections import ModelConfig
from softprompts.encoding.documents import Document
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.errors import UserError
from softprompts.models.loading import (
    count_parameters,
    input_spec,
    kind_of,
    load_base_model,
    load_model_config,
    max_positions,
)
from softprompts.system.quiet import quiet_libraries

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertModel,
    FlaubertConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    XLMConfig,
)

CPU = torch.device("cpu")


def load(folder: Path, **settings: Any) -> Any:
    return load_base_model(ModelConfig(str(folder), **settings), CPU)


def test_weights_that_are_a_pickle_are_not_read(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "it")
    torch.save(load_file(tmp_path / "it" / "model.safetensors"), tmp_path / "it" / "pytorch_model.bin")
    (tmp_path / "it" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"^model\.name_or_path: .*safetensors") as refusal:
        load(tmp_path / "it")
    assert "\n" not in str(refusal.value)


def test_base_model_is_frozen_and_in_evaluation_mode(tiny_model: Path) -> None:
    model, tokenizer = load(tiny_model)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer("good").input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize(("avx512", "amx", "dtype"), [(0, 0, "float32"), (1, 0, "bfloat16"), (0, 1, "bfloat16")])
def test_auto_takes_16_bits_where_the_processor_has_instructions_for_them(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, avx512: int, amx: int, dtype: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx512))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    assert load(tiny_model, dtype="auto")[0].dtype == getattr(torch, dtype)


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
        (lambda f: (f / "config.json").unlink(), "is not a model folder: it has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not valid JSON: "),
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
        ("bundled:smollm2", 'did you mean "bundled:smollm2-135m-instruct"'),
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
    quiet_libraries()  # as every recipe does
    """A soft prompt learns through the base model: the gradient must equal a plain model's with rounded weights."""
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
    with torch.no_grad():  # a validation comes first, and must not change the backward pass
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
    assert input_spec(model, 20).room == 236
    model.config = T5Config()  # relative positions: no limit
    assert input_spec(model, 20).room is None


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LlamaConfig(), "decoder"),
        (GPT2Config(), "decoder"),
        (T5Config(), "encoder-decoder"),
        (BertConfig(), "encoder"),
        (BertConfig(architectures=["BertModel"]), "encoder"),
        (BertConfig(architectures=["BertLMHeadModel"]), "decoder"),
        (BertConfig(is_decoder=True), "decoder"),
        (XLMConfig(architectures=["XLMWithLMHeadModel"]), "encoder"),
        (XLMConfig(architectures=["XLMWithLMHeadModel"], causal=True), "decoder"),
        (FlaubertConfig(architectures=["FlaubertWithLMHeadModel"]), "encoder"),
    ],
)
def test_kinds(config: PretrainedConfig, kind: str) -> None:
    assert kind_of(config) == kind


def test_an_encoder_decoder_writes(tiny_t5: Path) -> None:
    model, _ = load(tiny_t5)
    assert type(model).__name__ == "T5ForConditionalGeneration"
    assert not any(p.requires_grad for p in model.parameters())


def test_an_encoder_gets_a_classifier_with_the_choices(tiny_encoder: Path) -> None:
    model, _ = load_base_model(ModelConfig(str(tiny_encoder)), CPU, [" good", " bad", " so so"])
    assert model.config.id2label == {0: "good", 1: "bad", 2: "so so"}
    ids = torch.tensor([[5, 6, 7]])
    assert model(input_ids=ids).logits.shape == (1, 3)
    again, _ = load_base_model(ModelConfig(str(tiny_encoder)), CPU, ["a", "b"])
    whole, other = (m.base_model(input_ids=ids).last_hidden_state for m in (model, again))
    assert torch.equal(whole, other), "all but the classifier comes from the file"


def test_an_encoder_without_choices_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(UserError, match=r"^task\.choices: \S+ is an encoder, which chooses between labels; list all"):
        load(tiny_encoder)


SMALL: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def small_encoder(family: str) -> Any:
    """Return an encoder in its family's published form; most have no classifier or its parts."""
    if family == "distilbert":
        return DistilBertModel(DistilBertConfig(vocab_size=50, dim=32, n_layers=1, n_heads=2, hidden_dim=64))
    if family == "roberta":
        return RobertaForMaskedLM(RobertaConfig(**SMALL, intermediate_size=64))
    return BertForMaskedLM(BertConfig(**SMALL, intermediate_size=64))


@pytest.mark.parametrize("family", ["roberta", "distilbert", "bert without a pooler"])
def test_what_a_classifier_needs_besides_is_new_with_it(tiny_model: Path, tmp_path: Path, family: str) -> None:
    small_encoder(family).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    model, _ = load_base_model(ModelConfig(str(tmp_path)), CPU, ["a", "b"])
    assert model(input_ids=torch.tensor([[5, 6, 7]])).logits.shape == (1, 2)


def test_an_encoder_that_lacks_a_weight_of_its_own_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    kept = {name: t for name, t in load_file(path).items() if "layer.1.attention.self.query.weight" not in name}
    save_file(kept, path, {"format": "pt"})
    message = r" lacks 1 weights, the first: bert\.encoder\.layer\.1\.attention\.self\.query"
    with pytest.raises(UserError, match=message):
        load_base_model(ModelConfig(str(tmp_path / "model")), CPU, ["a", "b"])


def test_the_config_alone_is_had_without_weights(tiny_t5: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_t5 / "config.json", tmp_path)
    assert load_model_config(ModelConfig(str(tmp_path))).model_type == "t5"
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(UserError, match=r"^model\.name_or_path: cannot load \S+: .*unheard-of") as caught:
        load_model_config(ModelConfig(str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_an_adapter_is_no_base_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"^model\.name_or_path: \S+ is an adapter; name its base model here$"):
        load(tmp_path)


def test_c12_a_model_without_tokenizer_files_says_so_in_words(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("tokenizer*", "special_tokens*"))
    with pytest.raises(UserError) as caught:
        load_base_model(ModelConfig(str(folder)), torch.device("cpu"))
    assert str(caught.value) == (
        f"model.name_or_path: cannot load {folder}: no readable tokenizer files, such as tokenizer.json"
    )


@pytest.mark.parametrize(
    "change",
    [{"return_dict": False}, {"return_dict": None}, {"output_attentions": True, "output_hidden_states": True}],
)
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "encoder"])
def test_the_form_of_outputs_is_not_the_configs_to_say(
    tiny_model: Path, tiny_t5: Path, tiny_encoder: Path, tmp_path: Path, kind: str, change: dict[str, Any]
) -> None:
    origin = {"decoder": tiny_model, "encoder-decoder": tiny_t5, "encoder": tiny_encoder}[kind]
    folder = Path(shutil.copytree(origin, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    documents, found = [Document((5, 6, 7), (0,)), Document((5, 9), (1,))], []
    for place in (origin, folder):
        torch.manual_seed(0)  # of a new classifier
        engine = Engine(*load_base_model(ModelConfig(str(place)), CPU, ["a", "b"]), packed=kind == "decoder")
        with torch.no_grad():
            logits = engine(documents)[0].tolist()
        found.append((logits, None if kind == "encoder" else generate(engine, [(5, 6, 7)], 4)))
        ids = torch.tensor([[5]])
        output = engine.base(input_ids=ids, **({"decoder_input_ids": ids} if kind == "encoder-decoder" else {}))
        assert output.keys().isdisjoint({"attentions", "hidden_states", "encoder_attentions"})
    assert found[0] == found[1]


@pytest.mark.parametrize("change", [{"use_return_dict": False}, {"hidden_size": "wide"}, {"hidden_act": "x"}])
def test_a_config_that_transformers_cannot_take_is_one_line(
    tiny_model: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=rf"^model\.name_or_path: {folder}/config\.json: .*[^:]$") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_model_folder_with_an_adapter_in_it_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"^model\.name_or_path: \S+ has both a model and an adapter \(adapter_config\.json\); "
    ):
        load(folder)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_c9_code_from_the_hub_that_a_config_asks_for_is_not_fetched(tiny_model: Path, tmp_path: Path, key: str) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: "someone/attention"}))
    message = (
        r"^model\.name_or_path: \S+ requires foreign code \(someone/attention, in its config\), which this project"
    )
    with pytest.raises(UserError, match=message):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config | {key: "eager"}))
    load(folder)
