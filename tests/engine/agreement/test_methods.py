"""Every method and every kind of base, three ways: packed, stock, and plain PEFT give the same loss and gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import (
    METHODS,
    by_hand,
    documents,
    gradient_of,
    load_base,
    loss_and_gradient,
    method_engine,
    prompt_config,
    scores,
)
from softprompts.encoding.documents import Document
from softprompts.engine.build import disagreement
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.engine.layout import Layout
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt

import pytest
import torch
from hypothesis import given, settings
from peft import PrefixTuningConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

VOCABULARY = 300
SHORT, MIDDLE, LONG = (
    Document((5, 6), (7,)),
    Document(tuple(range(20, 33)), (40, 41, 42)),
    Document(tuple(range(100, 140)), (50, 51)),
)
ROW = tuple(range(60, 75))
# An instruction, longer than the sliding windows below, that all texts begin with; one of them is little more than it.
INSTRUCTION = tuple(range(200, 212))
INSTRUCTED = [
    Document((*INSTRUCTION, 7, 8, 9), (1, 2)),
    Document((*INSTRUCTION, 7, 8, 9), (3, 4, 5)),
    Document(INSTRUCTION, (6, 7)),
    Document((*INSTRUCTION, *ROW), (8, 9)),
]
CHOICES = [Document(ROW, (1, 2)), Document(ROW, (3,)), Document(ROW, (1, 4, 5)), Document(ROW, (1, 2))]


@pytest.fixture(scope="module")
def engines(tiny_model: Path) -> dict[str, Engine]:
    """An engine for every method; `packed` is switched by each test."""
    made = {method: method_engine(tiny_model, method) for method in METHODS}
    made["eager attention"] = method_engine(tiny_model, "prompt tuning")
    made["eager attention"].model.get_base_model().set_attn_implementation("eager")
    return made


def plain_peft(engine: Engine, docs: list[Document]) -> tuple[float, torch.Tensor]:
    """Loss and gradient as any PEFT user gets them: padded on the right, labels, no code of this project."""
    width = max(len(d.prompt_ids) + len(d.target_ids) for d in docs)
    ids, mask, labels = (torch.full((len(docs), width), fill) for fill in (0, 0, -100))
    for row, d in enumerate(docs):
        text = torch.tensor(d.prompt_ids + d.target_ids)
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
        labels[row, len(d.prompt_ids) : len(text)] = torch.tensor(d.target_ids)
    loss = engine.model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss.item(), gradient_of(loss, engine)


def assert_three_ways_agree(engine: Engine, docs: list[Document]) -> None:
    loss, gradient = loss_and_gradient(engine, docs, packed=True)
    for other, expected in (loss_and_gradient(engine, docs, packed=False), plain_peft(engine, docs)):
        assert loss == pytest.approx(other, rel=1e-5, abs=1e-5)
        assert (gradient - expected).norm() <= 1e-4 * expected.norm() + 1e-6
    trainable = [p for p in engine.parameters() if p.requires_grad]
    assert len(gradient) == sum(p.numel() for p in trainable)
    assert not trainable or gradient.norm() > 0


@pytest.mark.parametrize("method", [*METHODS, "eager attention"])
@given(docs=documents(VOCABULARY))
@settings(max_examples=10, deadline=None)
def test_packed_equals_stock_equals_plain_peft(engines: dict[str, Engine], method: str, docs: list[Document]) -> None:
    assert_three_ways_agree(engines[method], docs)


BATCHES = {
    "choices of one row": CHOICES,
    "choices of several rows": [*CHOICES, SHORT, Document(SHORT.prompt_ids, (9, 9)), LONG],
    "texts behind one instruction": INSTRUCTED,
    "one document": [MIDDLE],
    "one token, one target": [Document((5,), (6,))],
    "prompts of one token": [Document((5,), (6,)), Document((5,), (7, 8, 9)), Document((6,), (7,)), LONG],
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("method", METHODS)
def test_the_three_ways_agree_on_batches_of_a_special_shape(
    engines: dict[str, Engine], method: str, batch: str
) -> None:
    assert_three_ways_agree(engines[method], BATCHES[batch])


@pytest.mark.parametrize("method", METHODS)
def test_training_moves_what_the_method_trains_and_nothing_else(engines: dict[str, Engine], method: str) -> None:
    trainable = {name for name, p in engines[method].named_parameters() if p.requires_grad}
    everything = {name for name, _ in engines[method].named_parameters()}
    marks = {"base": None, "lora": "lora_", "IA3": "ia3_", "cartridge": "trainable_embedding", "full fine-tuning": ""}
    mark = marks.get(method, "prompt_encoder")
    assert trainable == (set() if mark is None else {name for name in everything if mark in name})


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("method", ["base", "prompt tuning", "prefix tuning", "lora"])
def test_a_document_does_not_depend_on_its_neighbours_or_its_place(
    engines: dict[str, Engine], method: str, packed: bool
) -> None:
    engine = engines[method]
    for docs in ([SHORT, MIDDLE, LONG], [LONG, LONG, SHORT, MIDDLE], [MIDDLE, SHORT], [*CHOICES, LONG], INSTRUCTED):
        together = scores(engine, docs, packed)
        for index, document in enumerate(docs):
            mine = together.logits[together.document == index]
            alone = scores(engine, [document], packed=False).logits
            torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-4)


SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "sliding_window": 8,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
ALTERNATING = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
SLIDING = ["mistral", "gemma2", "gemma3"]


def sliding_base(kind: str, **changes: Any) -> PreTrainedModel:
    """Return a random model whose layers, or every other one, look back fewer than 8 positions."""
    torch.manual_seed(0)
    if kind == "mistral":
        model: PreTrainedModel = MistralForCausalLM(MistralConfig(**SIZES | {"num_hidden_layers": 2} | changes))
    elif kind == "gemma2":
        # Soft caps so low that they bend the scores of random weights.
        caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8}
        model = Gemma2ForCausalLM(Gemma2Config(**SIZES | ALTERNATING | caps | changes))
    else:
        model = Gemma3ForCausalLM(Gemma3TextConfig(**SIZES | ALTERNATING | {"query_pre_attn_scalar": 8} | changes))
    return model.eval().requires_grad_(False)


def sliding_engine(tiny_model: Path, kind: str, method: str, tokens: int = 5, **changes: Any) -> Engine:
    base, tokenizer = sliding_base(kind, **changes), load_base(tiny_model)[1]
    torch.manual_seed(1)
    if method == "prefix tuning":
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens)
        return Engine(get_peft_model(base, config).eval(), tokenizer)
    return Engine(add_soft_prompt(base, tokenizer, prompt_config(tiny_model, tokens)), tokenizer)


@pytest.mark.parametrize("tokens", [5, 20])
@pytest.mark.parametrize("kind", SLIDING)
def test_sliding_windows_and_soft_caps_are_packed(tiny_model: Path, kind: str, tokens: int) -> None:
    engine = sliding_engine(tiny_model, kind, "prompt tuning", tokens)
    for docs in ([SHORT, MIDDLE, LONG], [*CHOICES, LONG, SHORT], [LONG], INSTRUCTED):
        assert disagreement(engine, docs) is None
        outside = scores(engine, docs, packed=True).logits
        with engine.prompts_cached(), torch.no_grad():
            torch.testing.assert_close(scores(engine, docs, packed=True).logits, outside, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [5, 20])
@pytest.mark.parametrize("kind", SLIDING)
def test_prefixes_shorter_and_longer_than_a_sliding_window_are_packed(tiny_model: Path, kind: str, tokens: int) -> None:
    assert disagreement(sliding_engine(tiny_model, kind, "prefix tuning", tokens), [SHORT, MIDDLE, LONG]) is None
    assert disagreement(sliding_engine(tiny_model, kind, "prefix tuning", tokens), INSTRUCTED) is None


@pytest.mark.parametrize("kind", SLIDING)
def test_an_ignored_sliding_window_would_be_noticed(
    tiny_model: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sliding_engine(tiny_model, kind, "prompt tuning")
    monkeypatch.setattr(Layout, "mask", lambda layout, index, window: layout.groups[index].sees)
    assert str(disagreement(engine, [SHORT, MIDDLE, LONG])).startswith("the ")


def test_an_ignored_soft_cap_would_be_noticed(tiny_model: Path) -> None:
    capped, uncapped = (
        sliding_engine(tiny_model, "gemma2", "prompt tuning", attn_logit_softcapping=cap) for cap in (2.0, None)
    )
    ours, others = (scores(engine, [LONG], packed=True).logits for engine in (capped, uncapped))
    assert (ours - others).abs().max() > 0.01


@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning"])
@pytest.mark.parametrize("kind", SLIDING)
def test_generation_with_a_sliding_window_does_not_depend_on_the_batch(
    tiny_model: Path, kind: str, method: str
) -> None:
    engine = sliding_engine(tiny_model, kind, method)
    prompts = [d.prompt_ids for d in (SHORT, MIDDLE, LONG)]
    expected = [by_hand(engine, prompt, 8) for prompt in prompts]
    assert [generate(engine, [prompt], 8)[0] for prompt in prompts] == expected
    assert generate(engine, prompts, 8) == expected


@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning"])
@pytest.mark.parametrize("kind", SLIDING)
def test_generation_behind_a_soft_prompt_longer_than_the_sliding_window(
    tiny_model: Path, kind: str, method: str
) -> None:
    engine = sliding_engine(tiny_model, kind, method, tokens=20)
    for document in (SHORT, MIDDLE, LONG):
        assert generate(engine, [document.prompt_ids], 8) == [by_hand(engine, document.prompt_ids, 8)]


@pytest.mark.parametrize("kind", SLIDING)
def test_generation_with_a_sliding_window_behind_a_bank_is_that_of_each_alone(tiny_model: Path, kind: str) -> None:
    engine = sliding_engine(tiny_model, kind, "prompt tuning")
    models = [engine.model, add_soft_prompt(engine.base, engine.tokenizer, prompt_config(tiny_model, 11))]
    prompts = [d.prompt_ids for d in (SHORT, MIDDLE, LONG)] * 2
    owners = [0, 1, 1, 1, 0, 0]
    expected = [
        by_hand(Engine(models[owner], engine.tokenizer), prompt, 8)
        for owner, prompt in zip(owners, prompts, strict=True)
    ]
    assert generate(Engine(models[0], engine.tokenizer, bank=models[1:]), prompts, 8, soft_prompts=owners) == expected
