"""The engine: target positions, banks of soft prompts, and the choice between packed and stock forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import (
    CPU,
    METHODS,
    bank_engine,
    documents,
    load_base,
    load_tuned,
    make_task,
    method_engine,
    prompt_config,
    scores,
)
from softprompts.config.sections import ModelConfig
from softprompts.encoding.documents import Document, EncodedTask
from softprompts.encoding.tokenization import encode
from softprompts.engine import attention
from softprompts.engine.build import TOLERANCE, disagreement, make_engine
from softprompts.engine.forward import Engine
from softprompts.engine.layout import Inputs, Layout, lay_out
from softprompts.engine.padded import logits_at
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt

import pytest
import torch
from hypothesis import given, settings
from peft import PrefixTuningConfig, get_peft_model
from torch import nn
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

VOCABULARY = 300
SHORT, MIDDLE, LONG = (
    Document((5, 6), (7,)),
    Document(tuple(range(20, 33)), (40, 41, 42)),
    Document(tuple(range(100, 140)), (50, 51)),
)


def behind(soft_prompt: int, document: Document) -> Document:
    return Document(document.prompt_ids, document.target_ids, soft_prompt)


# Out of order, one text with several soft prompts, and choices.
MIXED = [
    behind(2, LONG),
    behind(0, SHORT),
    behind(1, MIDDLE),
    behind(1, Document(MIDDLE.prompt_ids, (8, 9))),
    behind(0, MIDDLE),
    behind(2, SHORT),
]


@pytest.fixture(scope="module")
def engines(tiny_model: Path) -> dict[str, Engine]:
    return {method: method_engine(tiny_model, method) for method in METHODS}


Bank = tuple[Engine, list[Engine]]


@pytest.fixture(scope="module", params=["prompt tuning", "prefix tuning"])
def bank(tiny_model: Path, request: pytest.FixtureRequest) -> Bank:
    """Three soft prompts of 5, 2 and 9 virtual tokens over one base: together, and each alone."""
    return bank_engine(tiny_model, prefix=request.param == "prefix tuning")


@pytest.mark.parametrize("packed", [True, False])
def test_only_target_positions_reach_the_output_embedding(engines: dict[str, Engine], packed: bool) -> None:
    engine = engines["prompt tuning"]
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
    engine = engines["prompt tuning"]
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
        scores(engines["prompt tuning"], [], packed)


def prompt_gradients(engine: Engine, docs: list[Document], packed: bool) -> list[torch.Tensor | None]:
    """Return the gradient of the summed loss for each soft prompt of the bank."""
    prompts = [next(iter(model.prompt_encoder.parameters())) for model in engine.bank]
    return list(torch.autograd.grad(scores(engine, docs, packed).nll().sum(), prompts, allow_unused=True))


def alone_of(docs: list[Document], soft_prompt: int) -> list[Document]:
    return [behind(0, d) for d in docs if d.soft_prompt == soft_prompt]


def assert_bank_is_each_alone(bank: Bank, docs: list[Document], packed: bool) -> None:
    together, alone = bank
    result, gradients = scores(together, docs, packed), prompt_gradients(together, docs, packed)
    assert result.targets.tolist() == [t for d in docs for t in d.target_ids]
    assert result.document.tolist() == [i for i, d in enumerate(docs) for _ in d.target_ids]
    for index, document in enumerate(docs):
        mine = scores(alone[document.soft_prompt], [behind(0, document)], packed=False).logits
        torch.testing.assert_close(result.logits[result.document == index], mine, rtol=1e-4, atol=1e-4)
    for number, (engine, gradient) in enumerate(zip(alone, gradients, strict=True)):
        own = alone_of(docs, number)
        if not own:
            assert gradient is None or not gradient.any(), "exactly nothing reaches another's soft prompt"
            continue
        (expected,) = prompt_gradients(engine, own, packed=False)
        assert gradient is not None
        assert expected is not None
        assert expected.norm() > 0
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("packed", [True, False])
@given(docs=documents(VOCABULARY, bank=3))
@settings(max_examples=10, deadline=None)
def test_a_bank_gives_what_each_soft_prompt_gives_alone(bank: Bank, packed: bool, docs: list[Document]) -> None:
    assert_bank_is_each_alone(bank, docs, packed)


@pytest.mark.parametrize("packed", [True, False])
def test_mixed_choices_and_orders_of_a_bank(bank: Bank, packed: bool) -> None:
    for docs in (MIXED, MIXED[::-1], [behind(1, MIDDLE)], [behind(2, SHORT), behind(1, SHORT)]):
        assert_bank_is_each_alone(bank, docs, packed)


def test_the_soft_prompts_of_a_bank_do_say_something_else(bank: Bank) -> None:
    logits = [scores(bank[0], [behind(k, MIDDLE)], packed=True).logits for k in range(3)]
    for k in range(3):
        assert (logits[k] - logits[k - 1]).abs().max() > 0.1


def test_a_bank_may_hold_the_bare_base(tiny_model: Path) -> None:
    tuned, tokenizer = load_tuned(tiny_model)
    base = tuned.get_base_model()
    together = Engine(tuned, tokenizer, bank=[base])
    docs = [behind(1, MIDDLE), behind(0, MIDDLE), behind(1, SHORT)]
    outside = [scores(together, docs, packed).logits for packed in (True, False)]
    bare = scores(Engine(base, tokenizer), [MIDDLE], packed=False).logits
    for logits in outside:
        torch.testing.assert_close(logits[:3], bare, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*outside, rtol=1e-4, atol=1e-4)
    with together.prompts_cached(), torch.no_grad():
        torch.testing.assert_close(scores(together, docs, packed=True).logits, outside[0], rtol=1e-5, atol=1e-5)


def test_the_engine_registers_its_models_and_nothing_else(tiny_model: Path) -> None:
    together, alone = bank_engine(tiny_model)
    assert isinstance(together, nn.Module)
    assert [n for n, p in together.named_parameters() if p.requires_grad] == [
        f"bank.{k}.prompt_encoder.default.embedding.weight" for k in range(3)
    ]
    frozen = [p for p in together.parameters() if not p.requires_grad]
    assert {id(p) for p in frozen} == {id(p) for p in together.model.get_base_model().parameters()}
    assert [engine.model for engine in alone] == list(together.bank)
    assert together.device == CPU
    assert isinstance(together.tokenizer, PreTrainedTokenizerBase)


@pytest.fixture(scope="module")
def data(tiny_model: Path) -> EncodedTask:
    rows = [(f"the film was very {word}", f" {word} film") for word in ("good", "bad", "fine", "dull", "poor")]
    return encode(make_task(rows), load_base(tiny_model)[1])


def build(tiny_model: Path, data: EncodedTask, mode: Any, **settings: Any) -> tuple[Engine, list[str]]:
    said: list[str] = []
    model, tokenizer = load_tuned(tiny_model)
    return make_engine(model, tokenizer, config=ModelConfig(engine=mode, **settings), data=data, say=said.append), said


def sees_everything(*arguments: Any, **more: Any) -> tuple[Inputs, Layout]:
    inputs, layout = lay_out(*arguments, **more)
    return inputs, replace(layout, groups=tuple(replace(g, sees=torch.ones_like(g.sees)) for g in layout.groups))


def raises(module: nn.Module, *arguments: Any, **more: Any) -> Any:
    """Simulate a model whose own code does not accept a packed row."""
    if "layout" in more:
        raise TypeError("no such mask\nsecond line")
    return layer_of(module, *arguments, **more)


layer_of = LlamaAttention.forward


def half_the_gradient(engine: Engine, index: int) -> torch.Tensor:
    prompt = engine.bank[index].get_prompt(batch_size=1)[0]
    return (prompt + prompt.detach()) / 2


attention_of = attention._attention
DISAGREEMENTS: list[tuple[str, Callable[..., Any], str]] = [
    ("softprompts.engine.forward.lay_out", sees_everything, "the loss is "),
    ("transformers.models.llama.modeling_llama.LlamaAttention.forward", raises, "it raises TypeError: no such mask"),
    (
        "softprompts.engine.attention._attention",
        lambda *a, **more: attention_of(*a, **more) * float("nan"),
        "the loss is nan",
    ),
    ("softprompts.engine.forward.Engine.soft_prompt", half_the_gradient, "the gradient is off by "),
]


@pytest.mark.falls_back
@pytest.mark.parametrize(("target", "wrong", "difference"), DISAGREEMENTS)
def test_auto_falls_back_where_packed_disagrees_and_packed_refuses(
    tiny_model: Path,
    data: EncodedTask,
    target: str,
    wrong: Callable[..., Any],
    difference: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(target, wrong)
    engine, said = build(tiny_model, data, "auto")
    assert engine.packed is False
    assert len(said) == 1
    assert said[0].startswith("warning: model.engine: using stock")
    assert difference in said[0]
    assert "\n" not in said[0]
    with pytest.raises(UserError, match=f"^model.engine: packed does not .*{difference}"):
        build(tiny_model, data, "packed")
    assert build(tiny_model, data, "stock")[0].packed is False


@pytest.mark.falls_back
@pytest.mark.parametrize("wrong", range(3))
def test_the_check_covers_every_soft_prompt_of_a_bank(
    tiny_model: Path, data: EncodedTask, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Engine.soft_prompt
    models = [engine.model for engine in bank_engine(tiny_model)[1]]
    tokenizer, said = load_base(tiny_model)[1], list[str]()
    config = ModelConfig(engine="auto")
    assert make_engine(models[0], tokenizer, config=config, data=data, say=said.append, bank=models[1:]).packed
    assert said == []
    monkeypatch.setattr(Engine, "soft_prompt", lambda e, k: original(e, k) * (0.5 if e.bank[k] is models[wrong] else 1))
    assert not make_engine(models[0], tokenizer, config=config, data=data, say=said.append, bank=models[1:]).packed
    assert len(said) == 1


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(("mode", "packed"), [("auto", True), ("packed", True), ("stock", False)])
def test_make_engine_takes_what_is_asked_for(
    tiny_model: Path, data: EncodedTask, mode: str, packed: bool, checkpointing: bool
) -> None:
    engine, said = build(tiny_model, data, mode, gradient_checkpointing=checkpointing)
    assert engine.packed is packed
    assert said == []
    assert all(p.grad is None for p in engine.parameters()), "the check leaves no gradient behind"
    entered: list[int] = []
    engine.base.model.layers[0].mlp.register_forward_pre_hook(lambda *_: entered.append(1))
    scores(engine, [MIDDLE], packed).nll().mean().backward()
    assert len(entered) == (2 if checkpointing else 1)


@pytest.mark.parametrize("mode", ["auto", "packed", "stock"])
def test_gradient_checkpointing_of_a_prefix_is_refused(tiny_model: Path, data: EncodedTask, mode: Any) -> None:
    base, tokenizer = load_base(tiny_model)
    model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    with pytest.raises(
        UserError, match=r"^model.gradient_checkpointing: cannot be combined with prefix tuning.*micro_batch_tokens"
    ):
        make_engine(
            model,
            tokenizer,
            config=ModelConfig(engine=mode, gradient_checkpointing=True),
            data=data,
            say=lambda _: None,
        )


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_bases_are_packed_too(tiny_model: Path, data: EncodedTask, dtype: str, tuned: bool) -> None:
    base, tokenizer = load_base(tiny_model, dtype=dtype)
    torch.manual_seed(0)
    model = add_soft_prompt(base, tokenizer, prompt_config(tiny_model)) if tuned else base
    said: list[str] = []
    engine = make_engine(model, tokenizer, config=ModelConfig(engine="packed"), data=data, say=said.append)
    assert engine.packed
    assert said == []
    assert disagreement(engine, [SHORT, MIDDLE, LONG]) is None
    losses = [scores(engine, [SHORT, MIDDLE, LONG], packed).nll().mean().item() for packed in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=TOLERANCE[getattr(torch, dtype)][0])
