"""Cached keys and values are never stale, even if their sources change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import METHODS, Build, method_engine, scores
from softprompts.checkpoints.parameters import set_trainable, trainable_tensors
from softprompts.encoding.documents import Document
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.engine.kv_cache import PromptCache
from softprompts.evaluation.predict import predict

import pytest
import torch

SHORT, LONG = Document((5, 6), (7, 8)), Document(tuple(range(20, 45)), (40, 41, 42))
DOCS = [SHORT, LONG]
# Texts with a common beginning, whose keys and values generation caches too.
HEADED = [(9, 10, 11, 12, 5), (9, 10, 11, 12, 6, 7)]


def logits(engine: Engine) -> torch.Tensor:
    """Return the result of the packed forward pass, from the cache if possible."""
    with torch.no_grad():
        return scores(engine, DOCS, packed=True).logits


def fresh(engine: Engine) -> torch.Tensor:
    """Return the result of PEFT's own forward pass, which has no cache."""
    with torch.no_grad():
        return scores(engine, DOCS, packed=False).logits


def continued(engine: Engine) -> list[str]:
    return generate(engine, HEADED, 6)


def assert_not_stale(engine: Engine, change: Callable[[], Any]) -> None:
    """Within one context, compute, change the model, and compute again: the results are the changed model's."""
    with engine.prompts_cached():
        before, text = logits(engine), continued(engine)
        torch.testing.assert_close(before, fresh(engine), rtol=1e-4, atol=1e-4)
        change()
        after, new_text = logits(engine), continued(engine)
    expected = fresh(engine)
    assert (expected - before).abs().max() > 0.1, "the change is one"
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
    assert new_text == continued(engine), "as outside of the context"
    assert new_text != text


@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning", "lora"])
def test_c1_12_an_adapter_that_is_switched_off_is_off(tiny_model: Path, method: str) -> None:
    engine = method_engine(tiny_model, method)
    with engine.prompts_cached():
        on, text = logits(engine), continued(engine)
        with engine.model.disable_adapter():
            expected = fresh(Engine(engine.base, engine.tokenizer) if method != "lora" else engine)
            off, other = logits(engine), continued(engine)
        torch.testing.assert_close(off, expected, rtol=1e-4, atol=1e-4)
        assert (off - on).abs().max() > 0.1
        torch.testing.assert_close(logits(engine), on, rtol=1e-5, atol=1e-5)
        assert continued(engine) == text != other


@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning", "P-tuning LSTM", "lora", "full fine-tuning"])
@pytest.mark.parametrize("optimizer", ["fused", "for each", "adafactor"])
def test_c1_12_an_update_is_seen(tiny_model: Path, method: str, optimizer: str) -> None:
    """Fused optimizers do not count as changes of a tensor: their steps empty the cache."""
    engine = method_engine(tiny_model, method)
    trainable = [p for p in engine.parameters() if p.requires_grad]
    made = {
        "fused": lambda: torch.optim.AdamW(trainable, lr=0.5, fused=True),
        "for each": lambda: torch.optim.AdamW(trainable, lr=0.5, foreach=True),
        "adafactor": lambda: torch.optim.Adafactor(trainable, lr=0.5),
    }[optimizer]()
    scores(engine, DOCS, packed=True).nll().mean().backward()
    assert_not_stale(engine, made.step)


@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning"])
def test_c1_12_restored_values_are_seen(tiny_model: Path, method: str) -> None:
    """As when the best checkpoint is put in place."""
    engine = method_engine(tiny_model, method)
    values = {name: -3 * tensor for name, tensor in trainable_tensors(engine.model).items()}
    assert_not_stale(engine, lambda: set_trainable(engine.model, values))


@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning", "lora"])
def test_c1_12_another_adapter_is_seen(tiny_model: Path, method: str) -> None:
    engine = method_engine(tiny_model, method)
    torch.manual_seed(9)
    engine.model.add_adapter("second", copy.deepcopy(METHODS[method]))
    if method != "lora":
        engine.model.prompt_encoder["second"].eval()
    assert_not_stale(engine, lambda: engine.model.set_adapter("second"))


def test_c1_12_training_within_the_context_is_an_error(tiny_model: Path) -> None:
    engine = method_engine(tiny_model, "prompt tuning")
    with engine.prompts_cached():
        with pytest.raises(RuntimeError, match=r"^prompts_cached\(\) has no gradient"):
            scores(engine, DOCS, packed=True)
        assert scores(engine, DOCS, packed=False).nll().requires_grad, "PEFT's own keeps nothing"
    assert scores(engine, DOCS, packed=True).nll().requires_grad


def test_c1_12_generation_after_an_update_is_the_updated_models(make: Build) -> None:
    parts = make(mode="packed")
    engine = parts.engine
    before = generate(engine, HEADED, 6)
    with torch.no_grad():
        next(parts.model.prompt_encoder.parameters()).mul_(-1).add_(0.5)
    after = generate(engine, HEADED, 6)
    with torch.no_grad():
        next(parts.model.prompt_encoder.parameters()).sub_(0.5).mul_(-1)
    assert generate(engine, HEADED, 6) == before != after
    predict(engine, parts.data.validation, parts.evaluation, parts.run.accelerator, "a test")
    assert engine._cached is None, "nothing is kept behind it"


def test_soft_prompts_of_one_model_are_kept_apart(tiny_model: Path) -> None:
    engine = method_engine(tiny_model, "prompt tuning")
    cache, made = PromptCache(list(engine.bank)), []

    def compute() -> None:
        made.append(len(made))

    for key in [(0, ()), (1, ()), (0, (5, 6)), (0, ()), (1, ()), (0, (5, 6)), (0, (7,)), (0, (5, 6))]:
        cache.get(0, key, compute)
    assert len(made) == 5, "one head at a time"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache.get(0, (0, ()), compute)
    assert len(made) == 6, "another precision"
