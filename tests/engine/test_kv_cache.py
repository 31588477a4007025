"""Keys and values of soft prompts: in one row, in several rows, and in the engine's cache."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import METHODS, bank_engine, method_engine, scores
from softprompts.encoding.documents import Document
from softprompts.engine.attention import LayoutError
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.engine.kv_cache import States, one_behind_the_other, positions_of, side_by_side, states_in

import pytest
import torch
from peft import PeftModel
from transformers import DynamicCache

LAYERS, HEADS, SIZE = 3, 2, 4
SHORT, MIDDLE, LONG = (
    Document((5, 6), (7,)),
    Document(tuple(range(20, 33)), (40, 41, 42)),
    Document(tuple(range(100, 140)), (50, 51)),
)


@pytest.fixture(scope="module")
def engines(tiny_model: Path) -> dict[str, Engine]:
    return {method: method_engine(tiny_model, method) for method in METHODS}


def states(positions: int, seed: int = 0) -> States:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, HEADS, positions, SIZE)
    return [(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)) for _ in range(LAYERS)]


def assert_same(found: States, expected: States) -> None:
    assert len(found) == len(expected) == LAYERS
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine[0], other[0]), "keys"
        assert torch.equal(mine[1], other[1]), "values"


def test_states_go_into_a_cache_and_come_out_again() -> None:
    made = states(5)
    assert_same(states_in(DynamicCache(made), 5), made)


def test_a_layer_without_keys_of_its_own_is_named() -> None:
    """Gemma 3n's upper layers reuse those of a lower one; a layer of linear attention has none."""
    cache = DynamicCache(states(5))
    cache.layers[1].keys = None
    with pytest.raises(LayoutError, match=r"^some layers keep no keys and values of their own$"):
        states_in(cache, 5)


def test_a_layer_that_kept_its_last_positions_gets_zeros_for_the_first() -> None:
    (keys, values), *_ = states_in(DynamicCache(states(3)), 5)
    assert keys.shape == values.shape == (1, HEADS, 5, SIZE)
    assert not keys[:, :, :2].any()
    assert torch.equal(keys[:, :, 2:], states(3)[0][0])


@pytest.mark.parametrize(
    ("prompt", "positions"), [(None, 0), (torch.zeros(7, 32), 7), (states(5), 5), (torch.zeros(0, 32), 0)]
)
def test_positions_are_those_in_front_of_a_text(prompt: torch.Tensor | States | None, positions: int) -> None:
    assert positions_of(prompt) == positions


def test_prompts_stand_one_behind_the_other_in_the_order_given() -> None:
    made = [states(5, 1), states(2, 2), states(9, 3)]
    cache = one_behind_the_other(made)
    assert cache.get_seq_length() == 16
    found = states_in(cache, 16)
    for expected, start in zip(made, (0, 5, 7), strict=True):
        stop = start + positions_of(expected)
        assert_same([(keys[:, :, start:stop], values[:, :, start:stop]) for keys, values in found], expected)


def test_gradients_reach_every_prompt_of_a_row() -> None:
    made = [states(2, 1), states(3, 2)]
    for prompt in made:
        for layer in prompt:
            for tensor in layer:
                tensor.requires_grad_(True)
    keys, values = states_in(one_behind_the_other(made), 5)[1]
    (keys.sum() + values.sum()).backward()
    for prompt in made:
        assert [(k.grad is not None, v.grad is not None) for k, v in prompt] == [
            (i == 1, i == 1) for i in range(LAYERS)
        ]


def test_side_by_side_each_row_ends_where_the_text_begins() -> None:
    long, short = states(5, 1), states(2, 2)
    found = states_in(side_by_side([short, None, long, short], 6), 6)
    assert {tensor.shape for layer in found for tensor in layer} == {(4, HEADS, 6, SIZE)}
    for row, expected in ((0, short), (2, long), (3, short)):
        count = positions_of(expected)
        mine = [(keys[row : row + 1], values[row : row + 1]) for keys, values in found]
        assert_same([(keys[:, :, 6 - count :], values[:, :, 6 - count :]) for keys, values in mine], expected)
        assert all(not tensor[:, :, : 6 - count].any() for layer in mine for tensor in layer), "padding is zero"
    assert all(not tensor[1].any() for layer in found for tensor in layer), "no soft prompt, only padding"


def test_a_cache_for_generation_does_not_write_into_the_states() -> None:
    made = states(3)
    before = [(keys.clone(), values.clone()) for keys, values in made]
    cache = side_by_side([made], 3)
    for layer in range(LAYERS):
        cache.update(torch.ones(1, HEADS, 1, SIZE), torch.ones(1, HEADS, 1, SIZE), layer)
        cache.layers[layer].keys.zero_()
    assert cache.get_seq_length() == 4
    assert_same(made, before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count how often each PEFT model computes its soft prompt."""
    counted: Counter[int] = Counter()
    original = PeftModel.get_prompt

    def counting(model: PeftModel, *args: Any, **more: Any) -> Any:
        counted[id(model)] += 1
        return original(model, *args, **more)

    monkeypatch.setattr(PeftModel, "get_prompt", counting)
    return counted


@pytest.mark.parametrize("method", ["base", "prompt tuning", "prefix tuning", "projected prefix", "P-tuning LSTM"])
def test_cached_soft_prompts_give_the_same_logits_and_are_computed_once(
    engines: dict[str, Engine], method: str, calls: Counter[int]
) -> None:
    engine, batches = engines[method], [[SHORT, MIDDLE, LONG], [LONG, Document(LONG.prompt_ids, (1, 2, 3))]]
    outside = [scores(engine, docs, packed=True).logits for docs in batches]
    calls.clear()
    with engine.prompts_cached(), torch.no_grad():
        inside = [scores(engine, docs, packed=True).logits for docs in (*batches, *batches)]
        generate(engine, [SHORT.prompt_ids], 4)
    assert calls == ({} if method == "base" else {id(engine.model): 1})
    for found, expected in zip(inside, outside * 2, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", [True, False])
def test_a_bank_is_cached_soft_prompt_by_soft_prompt(tiny_model: Path, prefix: bool, calls: Counter[int]) -> None:
    engine = bank_engine(tiny_model, prefix=prefix)[0]
    owners = [2, 0, 1, 0, 2, 1]
    documents = [replace(d, soft_prompt=k) for d, k in zip([LONG, SHORT, MIDDLE] * 2, owners, strict=True)]
    outside = scores(engine, documents, packed=True).logits
    calls.clear()
    with engine.prompts_cached(), torch.no_grad():
        scores(engine, documents[:2], packed=True)
        assert calls == {id(engine.bank[0]): 1, id(engine.bank[2]): 1}, "only those that are needed"
        with engine.prompts_cached():
            inside = scores(engine, documents, packed=True).logits
        scores(engine, documents, packed=True)
    assert calls == {id(model): 1 for model in engine.bank}
    torch.testing.assert_close(inside, outside, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning"])
def test_outside_of_the_context_a_changed_soft_prompt_is_seen(tiny_model: Path, method: str, stops: bool) -> None:
    engine = method_engine(tiny_model, method)
    with contextlib.suppress(KeyboardInterrupt), torch.no_grad(), engine.prompts_cached():
        before = scores(engine, [MIDDLE], packed=True).logits
        if stops:
            raise KeyboardInterrupt
    with torch.no_grad():
        next(iter(engine.model.prompt_encoder.parameters())).mul_(-1)
    changed = scores(engine, [MIDDLE], packed=False).logits
    assert (changed - before).abs().max() > 0.1
    assert scores(engine, [MIDDLE], packed=True).nll().requires_grad
    torch.testing.assert_close(scores(engine, [MIDDLE], packed=True).logits, changed, rtol=1e-4, atol=1e-4)
    with engine.prompts_cached(), torch.no_grad():
        torch.testing.assert_close(scores(engine, [MIDDLE], packed=True).logits, changed, rtol=1e-4, atol=1e-4)
