"""One forward pass, three ways: packed, stock, and plain PEFT with labels give the same loss and gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import CPU, documents, load_base, load_tuned, make_task
from softprompts.batching import Document, EncodedTask, encode
from softprompts.engine import Engine, Scores, logits_at, make_engine
from softprompts.errors import UserError

import pytest
import torch
from hypothesis import given, settings, strategies
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

VOCABULARY = 300
SHORT, MIDDLE, LONG = (
    Document((5, 6), (7,)),
    Document(tuple(range(20, 33)), (40, 41, 42)),
    Document(tuple(range(100, 140)), (50, 51)),
)


@pytest.fixture(scope="module")
def engines(tiny_model: Path) -> dict[str, Engine]:
    """Engines over models that differ in what is attached to them; `packed` is switched by each test."""
    base, tokenizer = load_base(tiny_model)
    tuned, _ = load_tuned(tiny_model)
    eager, _ = load_tuned(tiny_model)
    eager.get_base_model().set_attn_implementation("eager")
    torch.manual_seed(1)
    lora = get_peft_model(load_base(tiny_model)[0], LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    models = {"base": base, "soft prompt": tuned, "eager attention": eager, "lora": lora}
    return {name: Engine(model, tokenizer) for name, model in models.items()}


def scores(engine: Engine, docs: list[Document], packed: bool) -> Scores:
    engine.packed = packed
    return Scores(*engine(docs))


def loss_and_gradient(engine: Engine, docs: list[Document], packed: bool) -> tuple[float, torch.Tensor]:
    loss = scores(engine, docs, packed).nll().mean()
    return loss.item(), gradient_of(loss, engine)


def gradient_of(loss: torch.Tensor, engine: Engine) -> torch.Tensor:
    trainable = [p for p in engine.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trainable) if trainable else []
    return torch.cat([torch.zeros(0), *(g.flatten() for g in gradients)])


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


@pytest.mark.parametrize("name", ["base", "soft prompt", "eager attention", "lora"])
@given(docs=documents(VOCABULARY), pair_cost=strategies.sampled_from([0.0, None, 1e9]))
@settings(max_examples=15, deadline=None)
def test_packed_equals_stock_equals_plain_peft(
    engines: dict[str, Engine], name: str, docs: list[Document], pair_cost: float | None
) -> None:
    engine = engines[name]
    before = engine.pair_cost
    engine.pair_cost = before if pair_cost is None else pair_cost  # 0: all in one row; 1e9: a row each
    try:
        loss, gradient = loss_and_gradient(engine, docs, packed=True)
    finally:
        engine.pair_cost = before
    for other, expected in (loss_and_gradient(engine, docs, packed=False), plain_peft(engine, docs)):
        assert loss == pytest.approx(other, rel=1e-5, abs=1e-5)
        assert (gradient - expected).norm() <= 1e-4 * expected.norm() + 1e-6
    if name != "base":
        assert gradient.norm() > 0


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["base", "soft prompt"])
def test_a_document_does_not_depend_on_its_neighbours_or_its_place(
    engines: dict[str, Engine], name: str, packed: bool
) -> None:
    engine = engines[name]
    for docs in ([SHORT, MIDDLE, LONG], [LONG, LONG, SHORT, MIDDLE], [MIDDLE, SHORT]):
        together = scores(engine, docs, packed)
        for index, document in enumerate(docs):
            mine = together.logits[together.document == index]
            alone = scores(engine, [document], packed=False).logits
            torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_the_side_that_the_tokenizer_pads_on_does_not_matter(tiny_model: Path, packed: bool) -> None:
    results = []
    for side in ("left", "right"):
        model, tokenizer = load_tuned(tiny_model)
        tokenizer.padding_side = side
        texts = make_task([("the film was", " good"), ("a very dull plot and a poor cast", " bad")])
        engine = Engine(model, tokenizer, packed)
        docs = [e.document for e in encode(texts, tokenizer, None).train]
        results.append((engine(docs)[0], engine.generate([d.prompt_ids for d in docs], 6)))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("packed", [True, False])
def test_only_target_positions_reach_the_output_embedding(engines: dict[str, Engine], packed: bool) -> None:
    engine = engines["soft prompt"]
    seen: list[torch.Size] = []
    head = engine.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape))
    try:
        result = scores(engine, [SHORT, MIDDLE, LONG], packed)
    finally:
        handle.remove()
    assert [shape[1] for shape in seen] == [6]
    assert result.logits.shape == (6, head.weight.shape[0])
    assert result.logits.dtype == torch.float32
    assert result.targets.tolist() == [7, 40, 41, 42, 50, 51]
    assert result.document.tolist() == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("packed", [True, False])
def test_the_hook_on_the_output_embedding_is_gone_afterwards(
    engines: dict[str, Engine], packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines["soft prompt"]
    head = engine.model.get_output_embeddings()
    ids = torch.tensor([[5, 6, 7]])
    before = engine.model(input_ids=ids).logits
    with pytest.raises(RuntimeError, match="stop"), logits_at(engine.model, torch.tensor([0]), ids.shape):
        raise RuntimeError("stop")
    assert not head._forward_pre_hooks

    def fails(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(head, "forward", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            scores(engine, [SHORT], packed)
    assert not head._forward_pre_hooks
    assert torch.equal(engine.model(input_ids=ids).logits, before)


@pytest.mark.parametrize("packed", [True, False])
def test_an_empty_batch_is_refused(engines: dict[str, Engine], packed: bool) -> None:
    with pytest.raises(ValueError, match="empty batch"):
        scores(engines["soft prompt"], [], packed)


def by_hand(engine: Engine, prompt: tuple[int, ...], tokens: int) -> list[int]:
    """Greedy decoding without a cache: the whole text through the forward pass again for every token."""
    written: list[int] = []
    for _ in range(tokens):
        logits = scores(engine, [Document((*prompt, *written), (0,))], packed=False).logits
        written.append(int(logits[0].argmax()))
        if written[-1] == engine.tokenizer.eos_token_id:
            break
    return written


@pytest.mark.parametrize("name", ["base", "soft prompt", "lora"])
def test_cached_generation_equals_uncached(engines: dict[str, Engine], name: str) -> None:
    engine = engines[name]
    for document in (SHORT, MIDDLE, LONG):
        expected = engine.tokenizer.decode(by_hand(engine, document.prompt_ids, 8), skip_special_tokens=True)
        assert engine.generate([document.prompt_ids], 8) == [expected]
        assert expected


@pytest.mark.parametrize("name", ["base", "soft prompt"])
def test_a_row_generates_the_same_alone_and_in_a_padded_batch(engines: dict[str, Engine], name: str) -> None:
    prompts = [d.prompt_ids for d in (SHORT, MIDDLE, LONG)]
    together = engines[name].generate(prompts, 8)
    assert together == [engines[name].generate([p], 8)[0] for p in prompts]
    assert len(set(together)) == 3


def test_generation_and_logits_with_an_adapter_differ_from_the_base(engines: dict[str, Engine]) -> None:
    # The canary for a soft prompt that is silently ignored (peft#2123, #2134, #2043).
    prompts = [d.prompt_ids for d in (SHORT, MIDDLE, LONG)]
    for name in ("soft prompt", "lora"):
        assert engines[name].generate(prompts, 8) != engines["base"].generate(prompts, 8)
        for packed in (True, False):
            ours, base = (scores(engines[n], [MIDDLE], packed).logits for n in (name, "base"))
            assert (ours - base).abs().max() > 0.1


@pytest.fixture
def data(tiny_model: Path) -> EncodedTask:
    rows = [(f"the film was very {word}", f" {word}") for word in ("good", "bad", "fine", "dull", "poor")]
    return encode(make_task(rows), load_base(tiny_model)[1], None)


def build(tiny_model: Path, data: EncodedTask, mode: str) -> tuple[Engine, list[str]]:
    said: list[str] = []
    model, tokenizer = load_tuned(tiny_model)
    return make_engine(model, tokenizer, mode, data, said.append), said


def sees_everything_before(engine: Engine, segment: torch.Tensor, virtual: int, dtype: torch.dtype) -> torch.Tensor:
    length = segment.shape[1] + virtual
    return torch.ones(length, length, dtype=torch.bool).tril().expand(len(segment), 1, -1, -1)


def raises(*_: Any) -> torch.Tensor:
    raise TypeError("no such mask\nsecond line")


def half_the_gradient(engine: Engine) -> torch.Tensor:
    prompt = engine.model.get_prompt(batch_size=1)[0]
    return (prompt + prompt.detach()) / 2


DISAGREEMENTS: list[tuple[str, Callable[..., torch.Tensor], str]] = [
    ("_attention_mask", sees_everything_before, "the loss is "),
    ("_attention_mask", raises, "it raises TypeError: no such mask"),
    ("_soft_prompt", half_the_gradient, "the gradient is off by "),
]


@pytest.mark.parametrize(("method", "wrong", "difference"), DISAGREEMENTS)
def test_auto_falls_back_where_packed_disagrees_and_packed_refuses(
    tiny_model: Path,
    data: EncodedTask,
    method: str,
    wrong: Callable[..., torch.Tensor],
    difference: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Engine, method, wrong)
    engine, said = build(tiny_model, data, "auto")
    assert engine.packed is False
    assert len(said) == 1
    assert said[0].startswith("warning: model.engine: taking stock")
    assert difference in said[0]
    assert "\n" not in said[0]
    with pytest.raises(UserError, match=f"^model.engine: packed does not .*{difference}"):
        build(tiny_model, data, "packed")


def test_auto_falls_back_where_packed_gives_nan(
    tiny_model: Path, data: EncodedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "_attention_mask", lambda *a: sees_everything_before(*a) * float("nan"))
    assert not build(tiny_model, data, "auto")[0].packed


@pytest.mark.parametrize("packed", [True, False])
def test_a_disabled_adapter_leaves_the_base(engines: dict[str, Engine], packed: bool) -> None:
    engine = engines["soft prompt"]
    with engine.model.disable_adapter():
        ours, text = scores(engine, [MIDDLE], packed).logits, engine.generate([LONG.prompt_ids], 8)
    torch.testing.assert_close(ours, scores(engines["base"], [MIDDLE], packed).logits)
    assert text == engines["base"].generate([LONG.prompt_ids], 8)


@pytest.mark.parametrize(("mode", "packed"), [("auto", True), ("packed", True), ("stock", False)])
def test_make_engine_takes_what_is_asked_for(tiny_model: Path, data: EncodedTask, mode: str, packed: bool) -> None:
    engine, said = build(tiny_model, data, mode)
    assert engine.packed is packed
    assert said == []
    assert all(p.grad is None for p in engine.parameters()), "the check leaves no gradient behind"


def test_half_precision_bases_are_packed_too(tiny_model: Path, data: EncodedTask) -> None:
    base, tokenizer = load_base(tiny_model, dtype="bfloat16")
    said: list[str] = []
    assert make_engine(base, tokenizer, "packed", data, said.append).packed


def test_the_engine_registers_its_model_and_nothing_else(engines: dict[str, Engine], tiny_model: Path) -> None:
    model, tokenizer = load_tuned(tiny_model)
    engine = Engine(model, tokenizer)
    assert isinstance(engine, nn.Module)
    assert [n for n, p in engine.named_parameters() if p.requires_grad] == [
        "model.prompt_encoder.default.embedding.weight"
    ]
    assert engine.device == CPU
    assert isinstance(engine.tokenizer, PreTrainedTokenizerBase)
