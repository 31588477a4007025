"""Prefix tuning: keys and values of a text have the text's effect; other initial values, projections, refusals."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers import TEXT, load_base, scores
from softprompts.config.methods import PrefixConfig
from softprompts.config.sections import ModelConfig
from softprompts.encoding.documents import Document
from softprompts.engine.build import disagreement
from softprompts.engine.forward import Engine
from softprompts.engine.kv_cache import States
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.models.loading import count_parameters, load_base_model

import pytest
import torch
from peft import CartridgeConfig, PeftModel, get_peft_model, initialize_kv_prefix_from_text
from transformers import DynamicCache, MistralConfig, MistralForCausalLM

# Two layers, keys and values, two groups of heads, eight dimensions each.
WIDTH = 2 * 2 * 2 * 8
DOCUMENTS = [Document((0, 5, 6), (7,)), Document((0, *range(20, 33)), (40, 41, 42))]


def attach(folder: Path, seed: int | None = 0, **settings: Any) -> PeftModel:
    base, tokenizer = load_base(folder)
    return add_prefix(base, tokenizer, PrefixConfig(**{"num_virtual_tokens": 6} | settings), seed=seed).eval()


def values(model: Any) -> torch.Tensor:
    """Return the parameters of a prefix without a projection."""
    return model.prompt_encoder["default"].embedding.weight.detach()


def trainable(model: Any) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def states(model: PeftModel) -> States:
    """Return the keys and values that the layers see."""
    found = Engine(model, None).soft_prompt(0)  # type: ignore[arg-type]
    assert isinstance(found, list)
    return found


def test_layers_without_keys_of_their_own_have_no_start_from_a_text(tiny_model: Path) -> None:
    """Gemma 3n's upper layers reuse those of a lower one; a layer of linear attention has none."""

    def without_keys(_: Any, __: Any, output: Any) -> Any:
        output.past_key_values.layers[1].keys = None
        return output

    base, tokenizer = load_base(tiny_model)
    base.register_forward_hook(without_keys)
    message = r"^prefix.init_text: some layers keep no keys and values of their own; set it to null for random"
    with pytest.raises(UserError, match=message):
        add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=4, init_text="the film"))


def test_a_token_without_an_embedding_is_no_start(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    tokenizer.add_tokens(["zzz"])
    message = rf"^prefix.init_text: token {len(tokenizer) - 1} of the initial text is beyond the \d+ embeddings"
    with pytest.raises(UserError, match=message):
        add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=4, init_text="the film zzz"))


@pytest.mark.parametrize("count", [3, 6, 20])
def test_a_text_becomes_the_keys_and_values_of_its_tokens_cut_or_repeated(tiny_model: Path, count: int) -> None:
    base, tokenizer = load_base(tiny_model)
    ids = tokenizer("the film was good", add_special_tokens=False).input_ids
    assert 3 < len(ids) < 20
    model = attach(tiny_model, num_virtual_tokens=count, init_text="the film was good")
    cache = DynamicCache()
    with torch.no_grad():
        base(torch.tensor([(ids * count)[:count]]), past_key_values=cache)
    layers: Any = cache.layers
    for found, layer in zip(states(model), layers, strict=True):
        torch.testing.assert_close(found, (layer.keys, layer.values))
    assert tokenizer.bos_token_id not in ids, "the begin-of-sequence token stays with the texts"


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_continues_a_text_behind_it_as_if_that_stood_in_front(tiny_model: Path, packed: bool) -> None:
    base, tokenizer = load_base(tiny_model)
    ids = tuple(tokenizer(TEXT, add_special_tokens=False).input_ids)
    model = attach(tiny_model, num_virtual_tokens=len(ids), init_text=TEXT)
    with torch.no_grad():
        found = scores(Engine(model, tokenizer), DOCUMENTS, packed).logits
        plain = Engine(base, tokenizer)
        behind = [Document(ids + d.prompt_ids, d.target_ids) for d in DOCUMENTS]
        expected = scores(plain, behind, packed=False).logits
        without = scores(plain, DOCUMENTS, packed=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - without).abs().max() > 0.1


def test_a_cartridge_begins_as_peft_begins_one_with_the_first_tokens_of_a_file(
    tiny_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "long.txt"
    file.write_text(f"\n{TEXT}, {TEXT}, {TEXT}\n", encoding="utf-8")
    base, tokenizer = load_base(tiny_model)
    tokenizer.add_bos_token = False  # PEFT would read special tokens as well
    model = add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=6, init_text=str(file), frozen_first=1))
    theirs: Any = get_peft_model(
        load_base(tiny_model)[0], CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=6, num_frozen_tokens=1)
    )
    text = file.read_text(encoding="utf-8").strip()
    initialize_kv_prefix_from_text(theirs, tokenizer, text=text, use_chat_template=False)
    torch.testing.assert_close(values(model), theirs.prompt_encoder["default"].weight.detach())
    ours, expected = (
        torch.autograd.grad(scores(Engine(m, tokenizer), DOCUMENTS, packed).nll().mean(), trainable(m))
        for m, packed in ((model, True), (theirs, False))
    )
    assert [tuple(g.shape) for g in expected] == [(5, WIDTH)]
    torch.testing.assert_close(ours[0].reshape(5, -1), expected[0], rtol=1e-3, atol=1e-5)


def test_a_text_in_half_precision_is_kept_in_whole(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model, dtype="bfloat16")
    prefix = values(add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=5, init_text=TEXT)))
    assert prefix.dtype == torch.float32
    whole = values(attach(tiny_model, num_virtual_tokens=5, init_text=TEXT))
    torch.testing.assert_close(prefix, whole, rtol=0.1, atol=0.1)


def test_zero_starts_at_zero(tiny_model: Path) -> None:
    assert not values(attach(tiny_model, init_weights="zero")).any()


def test_a_random_start_follows_the_seed_whatever_was_drawn_before(tiny_model: Path) -> None:
    def draw(seed: int, state: int, **settings: Any) -> torch.Tensor:
        torch.manual_seed(state)
        return torch.cat(
            [p.detach().flatten() for p in attach(tiny_model, seed, **settings).prompt_encoder.parameters()]
        )

    for settings in ({}, {"prefix_projection": True, "encoder_hidden_size": 16}):
        assert torch.equal(draw(1, 0, **settings), draw(1, 2, **settings))
        assert not torch.equal(draw(1, 0, **settings), draw(2, 0, **settings))


@pytest.mark.parametrize("settings", [{}, {"init_text": TEXT}, {"init_weights": "zero"}])
def test_only_the_prefix_trains_and_it_is_float32(tiny_model: Path, settings: dict[str, Any]) -> None:
    model = attach(tiny_model, **settings)
    assert [(p.dtype, tuple(p.shape)) for p in trainable(model)] == [(torch.float32, (6, WIDTH))]


@pytest.mark.parametrize("hidden", [16, None])
def test_a_projection_is_a_network_of_two_layers(tiny_model: Path, hidden: int | None) -> None:
    model = attach(tiny_model, prefix_projection=True, encoder_hidden_size=hidden)
    width = 16  # of the keys of all groups of heads
    inner = hidden or width
    expected = 6 * width + (width + 1) * inner + (inner + 1) * WIDTH
    assert count_parameters(model).trainable == expected
    assert [layer[0].shape for layer in states(model)] == [(1, 2, 6, 8)] * 2
    assert disagreement(Engine(model, None), DOCUMENTS) is None  # type: ignore[arg-type]


def test_the_settings_handed_in_stay_as_they_are(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    config = PrefixConfig(num_virtual_tokens=3, init_text=TEXT)
    before = asdict(config)
    add_prefix(base, tokenizer, config)
    assert asdict(config) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_virtual_tokens": 0}, r"^prefix\.num_virtual_tokens: expected a number above 0, found 0$"),
        ({"num_virtual_tokens": None}, r"^prefix\.num_virtual_tokens: expected a number above 0, found None$"),
        (
            {"num_virtual_tokens": 256},
            r"^prefix\.num_virtual_tokens: 256 virtual tokens leave no room in the model's 256 positions",
        ),
        ({"init_text": ""}, r"^prefix\.init_text: the text is empty; set it to null for no text$"),
        ({"init_text": "./gone.txt"}, r"^prefix\.init_text: no such file: gone.txt; name another, or write a text of"),
        (
            {"init_text": "a", "prefix_projection": True},
            r"^prefix\.init_text: cannot be combined with prefix_projection, .*; set init_text to null",
        ),
        (
            {"init_text": "a", "init_weights": "zero"},
            r"^prefix\.init_text: cannot be combined with init_weights: zero; set one",
        ),
    ],
)
def test_settings_without_sense_are_refused(tiny_model: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        attach(tiny_model, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tiny_t5", "tiny_encoder"])
def test_a_text_is_for_decoders(request: pytest.FixtureRequest, kind: str) -> None:
    config = ModelConfig(str(request.getfixturevalue(kind)))
    base, tokenizer = load_base_model(config, torch.device("cpu"), ["a", "b"])
    with pytest.raises(UserError, match=r"^prefix\.init_text: requires a decoder"):
        add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=3, init_text="the film"))


def test_a_text_longer_than_a_sliding_window_is_refused(tiny_model: Path) -> None:
    tokenizer = load_base(tiny_model)[1]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(vocab_size=len(tokenizer), num_hidden_layers=2, sliding_window=8, **sizes)
    base = MistralForCausalLM(config).eval().requires_grad_(False)
    add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=5, init_text=TEXT))
    with pytest.raises(UserError, match=r"^prefix\.init_text: .*12.*; set it to null for random initial values$"):
        add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=12, init_text=TEXT))
