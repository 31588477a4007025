"""The attention mask of a packed row, written by hand; a packed forward pass does not change the model."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import CPU, documents, gradient_of, load_base, loss_and_gradient, method_engine, scores
from made_models import make_base
from softprompts.encoding.documents import Document
from softprompts.engine import attention
from softprompts.engine.attention import (
    PREFIX,
    LayoutError,
    attend,
    checkpoint_layers,
    follow_layouts,
    unfollow_layouts,
)
from softprompts.engine.batches import PackedBatch, pack
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.engine.layout import SHORTEST_OF_GROUP, Group, Layout, lay_out
from softprompts.errors import UserError
from softprompts.models.peft_compat import attention_name

import pytest
import torch
from hypothesis import given, settings, strategies
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import XLNetConfig, XLNetLMHeadModel

# A text with two branches, and a shorter text in the same group.
BRANCHED = [Document((1, 2, 3), (4, 5)), Document((1, 2, 3), (6, 7, 8)), Document((9, 10), (11, 12))]
WIDE = """
    pp123467      pp9AB___
    xxx.....      xxx.....
    xxxx....      xxxx....
    xxxxx...      xxxxx...
    xxxxxx..
    xxxxx.x.
    xxxxx.xx
"""
# A layer that looks back fewer than three positions; a branch's positions continue from the prompt's last one.
NARROW = """
    pp123467      pp9AB___
    xxx.....      xxx.....
    .xxx....      .xxx....
    ..xxx...      ..xxx...
    ...xxx..
    ...xx.x.
    ....x.xx
"""


def laid_out(batch: PackedBatch, prompts: dict[int, int], prompt_queries: bool) -> Layout:
    return lay_out(batch, prompts, prompt_queries=prompt_queries, device=CPU)[1]


def by_hand(picture: str) -> list[list[list[bool]]]:
    """Read a picture: for each text, row by row, which keys a token sees."""
    lines = [line.split() for line in picture.strip().splitlines()[1:]]
    return [[[mark == "x" for mark in line[text]] for line in lines if len(line) > text] for text in range(2)]


def rows_of(mask: torch.Tensor, lengths: tuple[int, ...]) -> list[list[list[bool]]]:
    """Return the visible keys of each text's tokens; rows of padding are not used."""
    return [mask[text, 0, :length].tolist() for text, length in enumerate(lengths)]


@pytest.mark.parametrize(("window", "picture"), [(None, WIDE), (100, WIDE), (3, NARROW)])
def test_a_text_sees_its_prompt_and_itself_branch_by_branch(window: int | None, picture: str) -> None:
    batch = pack(BRANCHED)
    layout = laid_out(batch, {0: 2}, prompt_queries=True)
    lengths = tuple(text.length for text in batch.texts)
    assert lengths == (6, 3)
    assert len(layout.groups) == 1
    mask = layout.mask(0, window)
    assert mask.shape == (2, 1, 6, 8)
    assert rows_of(mask, lengths) == by_hand(picture)
    assert mask.any(-1).all(), "a row of padding that sees nothing would be NaN"


def test_without_a_soft_prompt_only_its_columns_are_missing() -> None:
    batch = pack(BRANCHED)
    bare, behind = (laid_out(batch, {0: virtual}, prompt_queries=False).groups[0] for virtual in (0, 2))
    assert torch.equal(bare.sees, behind.sees[..., 2:])
    assert torch.equal(bare.position, behind.position - 2)
    assert behind.position[0].tolist() == [2, 3, 4, 5, 5, 6]


def put_back(group: Group, row: torch.Tensor) -> torch.Tensor:
    return row[group.places].flatten()[group.back]


@given(docs=documents(300, most=9, bank=3), virtual=strategies.lists(strategies.integers(0, 4), min_size=3, max_size=3))
@settings(max_examples=15, deadline=None)
def test_groups_hold_every_token_once_behind_its_own_soft_prompt(docs: list[Document], virtual: list[int]) -> None:
    batch = pack(docs)
    used = list(dict.fromkeys(text.soft_prompt for text in batch.texts))
    layout = laid_out(batch, {k: virtual[k] for k in used}, prompt_queries=True)
    assert layout.prompts == tuple(virtual[k] for k in used)
    assert sum(group.tokens for group in layout.groups) == len(batch.input_ids)
    texts = iter(batch.texts)
    heads = {text.soft_prompt: text.length for text in batch.texts if text.head}
    for group in layout.groups:
        stretch = torch.arange(group.tokens)
        assert torch.equal(put_back(group, stretch), stretch), "taken apart and put back"
        members = [next(texts) for _ in range(len(group.places))]
        (soft_prompt,) = {text.soft_prompt for text in members}
        assert used[group.front[0]] == soft_prompt
        lengths = [text.length for text in members]
        assert lengths[0] == max(lengths) == group.places.shape[1]
        assert min(lengths) >= SHORTEST_OF_GROUP * lengths[0], "little is padded"
        assert sum(lengths) == group.tokens
        before = virtual[soft_prompt] + (0 if members[0].head else heads.get(soft_prompt, 0))
        assert group.sees.shape == (len(members), 1, lengths[0], before + lengths[0])
        assert group.position.shape == (len(members), lengths[0])
        if len(group.front) == 2:
            assert layout.groups[group.front[1] - len(used)].tokens == heads[soft_prompt], "the head is in front"
    assert next(texts, None) is None


def test_long_and_short_texts_are_not_padded_to_each_other() -> None:
    lengths = (40, 21, 20, 19, 10, 4)
    batch = pack([Document(tuple(range(n, 2 * n)), (1,)) for n in lengths])
    groups = laid_out(batch, {0: 3}, prompt_queries=False).groups
    assert [(len(g.places), g.places.shape[1], g.tokens) for g in groups] == [(3, 40, 81), (2, 19, 29), (1, 4, 4)]


def row_by_row(
    batch: PackedBatch, virtual: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """Attention in the plainest way: one token at a time, from the definition. All tensors (heads, positions, size)."""
    ends = list(itertools.accumulate(text.length for text in batch.texts))
    head = batch.texts[0].length if batch.texts[0].head else 0
    results = []
    for place in range(len(batch.input_ids)):
        text = next(t for t, end in enumerate(ends) if place < end)
        start = ends[text] - batch.texts[text].length
        own = [i for i in range(start, place + 1) if batch.branch[i] in (0, batch.branch[place])]
        own = own if place < head else [*range(head), *own]
        seen = [*range(virtual), *(virtual + i for i in own)]
        weights = (query[:, place, None] * key[:, seen]).sum(-1).mul(query.shape[-1] ** -0.5).softmax(-1)
        results.append((weights[..., None] * value[:, seen]).sum(1))
    return torch.stack(results)


@pytest.mark.parametrize("head", [(), (20, 21, 22)])
@pytest.mark.parametrize("softcap", [None, 1e4])
def test_attend_is_attention_text_by_text(softcap: float | None, head: tuple[int, ...]) -> None:
    texts = [replace(d, prompt_ids=head + d.prompt_ids) for d in [*BRANCHED, Document((13,), (14,))]]
    batch, virtual = pack(texts), 2
    assert batch.texts[0].head == bool(head)
    total, generator = len(batch.input_ids), torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, total, 8, generator=generator)
    key, value = (torch.randn(1, 2, virtual + total, 8, generator=generator) for _ in range(2))
    layout = laid_out(batch, {0: virtual}, prompt_queries=False)
    ours, weights = attend("sdpa", nn.Module(), query, key, value, None, layout=layout, softcap=softcap)
    assert weights is None
    expected = row_by_row(batch, virtual, query[0], *(x[0].repeat_interleave(2, dim=0) for x in (key, value)))
    torch.testing.assert_close(ours[0], expected, rtol=1e-4, atol=1e-5)


def test_positions_are_copied_with_the_rest_those_of_soft_prompts_first() -> None:
    inputs, _ = lay_out(pack(BRANCHED), {0: 2}, prompt_queries=True, device=CPU)
    assert inputs.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 2, 3, 4]
    assert inputs.input_ids.tolist() == [1, 2, 3, 4, 6, 7, 9, 10, 11]
    assert inputs.targets.tolist() == [4, 5, 6, 7, 8, 11, 12]


def implementations(engine: Engine) -> set[str]:
    return {m.config._attn_implementation for m in engine.base.modules() if hasattr(m, "config")}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning", "lora"])
def test_c1_6_after_a_packed_forward_everything_else_is_what_it_was(
    tiny_model: Path, method: str, implementation: str, tmp_path: Path
) -> None:
    """PEFT's own forward pass and generation, the base model alone, and saved files."""
    found = []
    for packed in (False, True):
        engine = method_engine(tiny_model, method)
        engine.base.set_attn_implementation(implementation)
        if packed:
            scores(engine, BRANCHED, packed=True)
            assert implementations(engine) == {PREFIX + implementation}
        ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
        mask = (ids > 0).long()
        model = engine.model
        own = model(input_ids=ids, attention_mask=mask).logits
        written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
        with model.disable_adapter():
            alone = model(input_ids=ids, attention_mask=mask).logits
        folder = tmp_path / str(packed)
        model.save_pretrained(folder)
        engine.base.config.save_pretrained(folder)
        saved = {file.name: file.read_bytes() for file in folder.iterdir()}
        found.append((own, scores(engine, BRANCHED, packed=False).logits, written, alone, saved))
    for before, after in zip(*(row[:4] for row in found), strict=True):
        assert torch.equal(before, after)
    assert found[0][4] == found[1][4]
    assert not any(PREFIX.encode() in content for content in found[1][4].values())


def test_c1_6_a_model_is_saved_and_loaded_again(tiny_model: Path, tmp_path: Path) -> None:
    engine = method_engine(tiny_model, "full fine-tuning")
    expected = scores(engine, BRANCHED, packed=True).logits
    engine.base.save_pretrained(tmp_path)
    engine.tokenizer.save_pretrained(tmp_path)
    again = Engine(*load_base(tmp_path))
    assert implementations(again) == {"sdpa"}
    assert torch.equal(scores(again, BRANCHED, packed=True).logits, expected)


def test_c1_6_the_attention_is_set_once_and_given_back(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = method_engine(tiny_model, "prompt tuning")
    names: list[str] = []
    original = type(engine.base).set_attn_implementation
    monkeypatch.setattr(
        type(engine.base), "set_attn_implementation", lambda base, name: (names.append(name), original(base, name))
    )
    for _ in range(3):
        loss_and_gradient(engine, BRANCHED, packed=True)
    assert names == [PREFIX + "sdpa"]
    unfollow_layouts(engine.base)
    unfollow_layouts(engine.base)
    assert names == [PREFIX + "sdpa", "sdpa"]
    assert implementations(engine) == {"sdpa"}


def test_c1_6_an_attention_that_takes_no_layout_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base("bloom")
    with pytest.raises(LayoutError, match=r"^the model's attention cannot be replaced$"):
        follow_layouts(base)
    assert attention_name(base) == "eager"
    dropping = Engine(make_base("stablelm"), None, packed=True)  # type: ignore[arg-type]
    with pytest.raises(LayoutError, match=r"^the model's layers do not pass further arguments"):
        dropping(BRANCHED)
    engine = method_engine(tiny_model, "base")
    monkeypatch.setattr(type(engine.base), "forward", lambda self, inputs_embeds=None: None)
    with pytest.raises(LayoutError, match=r"^the model's forward pass does not pass further arguments"):
        follow_layouts(engine.base)
    engine.base.config._attn_implementation = "flex_attention"
    with pytest.raises(LayoutError, match="the attention flex_attention is unknown"):
        scores(engine, BRANCHED, packed=True)


@pytest.mark.parametrize("window", [None, 3])
def test_layers_share_what_a_soft_prompt_and_a_group_see(window: int | None) -> None:
    layout = laid_out(pack(BRANCHED), {0: 5}, prompt_queries=True)
    seen = layout.prompt_mask(0, window, CPU)
    assert seen.sum(1).tolist() == [min(k, window or 5) for k in range(1, 6)]
    assert layout.prompt_mask(0, window, CPU) is seen
    assert layout.mask(0, window) is layout.mask(0, window)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("method", ["prompt tuning", "P-tuning MLP", "lora", "full fine-tuning"])
def test_checkpointed_layers_are_computed_twice_and_give_the_same(tiny_model: Path, method: str, packed: bool) -> None:
    engine = method_engine(tiny_model, method)
    loss, gradient = loss_and_gradient(engine, BRANCHED, packed)
    entered: list[int] = []
    for layer in engine.base.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: entered.append(1))
    scores(engine, BRANCHED, packed).nll().mean().backward()
    assert len(entered) == 2, "each of two layers once"
    checkpoint_layers(engine.base)
    entered.clear()
    again = scores(engine, BRANCHED, packed).nll().mean()
    assert len(entered) == 2
    found = gradient_of(again, engine)
    assert len(entered) == 4, "and once more in the backward pass"
    assert again.item() == loss
    torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-6)


def test_a_layer_is_wrapped_once_for_all_engines(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep builds an engine per rung over the same base model, and each wrapping costs time."""
    engine, calls = method_engine(tiny_model, "prompt tuning"), []
    original = attention.checkpoint

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(1)
        return original(*given, **named)

    monkeypatch.setattr(attention, "checkpoint", counted)
    for _ in range(3):
        checkpoint_layers(engine.base)
    scores(engine, BRANCHED, packed=False)
    assert len(calls) == 2, "each of two layers once"


def test_recomputing_follows_the_layout_of_its_own_forward(tiny_model: Path) -> None:
    engine = method_engine(tiny_model, "prompt tuning")
    batches = [BRANCHED, [Document(tuple(range(30)), (5, 6))]]
    expected = [loss_and_gradient(engine, docs, packed=True)[1] for docs in batches]
    checkpoint_layers(engine.base)
    losses = [scores(engine, docs, packed=True).nll().mean() for docs in batches]
    for loss, gradient in zip(losses, expected, strict=True):
        torch.testing.assert_close(gradient_of(loss, engine), gradient, rtol=1e-5, atol=1e-6)


def test_a_model_that_marks_no_layers_has_nothing_to_recompute() -> None:
    base = XLNetLMHeadModel(XLNetConfig(vocab_size=100, d_model=32, n_layer=1, n_head=2, d_inner=32))
    with pytest.raises(UserError, match=r"^model.gradient_checkpointing: a XLNetLMHeadModel does not mark its layers"):
        checkpoint_layers(base)


def test_checkpointed_layers_still_generate(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    expected = generate(Engine(base, tokenizer), [(5, 6), tuple(range(20, 33))], 8)
    checkpoint_layers(base)
    assert generate(Engine(base, tokenizer), [(5, 6), tuple(range(20, 33))], 8) == expected


Shapes = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def grouped_heads(device: str, dtype: torch.dtype = torch.float32, length: int = 6) -> Shapes:
    """Return queries of 8 heads, keys and values of 2, and a mask with 3 positions before the texts."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 8, length, 16, generator=generator)
    key, value = (torch.randn(2, 2, 3 + length, 16, generator=generator) for _ in range(2))
    sees = torch.ones(2, 1, length, 3 + length, dtype=torch.bool).tril(3)
    return *(x.to(device, dtype).requires_grad_() for x in (query, key, value)), sees.to(device)  # type: ignore[return-value]


def attended(tensors: Shapes) -> tuple[torch.Tensor, ...]:
    """Return the result of attention, and the gradients of queries, keys and values."""
    result = attention._attention(*tensors, scaling=None, dropout=0.0, softcap=None, sinks=None)
    return result, *torch.autograd.grad((result.float() ** 2).sum(), tensors[:3])


@pytest.mark.parametrize(("device", "grouped"), [("cpu", True), ("meta", False)])
def test_c1_1_heads_are_grouped_on_a_cpu_only(device: str, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA `enable_gqa` with a mask uses the math kernel; here the meta device replaces a GPU."""
    passed: list[tuple[bool, int, int]] = []
    original = functional.scaled_dot_product_attention

    def watched(query: torch.Tensor, key: torch.Tensor, *more: Any, enable_gqa: bool, **named: Any) -> torch.Tensor:
        passed.append((enable_gqa, query.shape[1], key.shape[1]))
        return original(query, key, *more, enable_gqa=enable_gqa, **named)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    result = attention._attention(*grouped_heads(device), scaling=None, dropout=0.0, softcap=None, sinks=None)
    assert result.shape == (2, 8, 6, 16)
    assert passed == [(grouped, 8, 2 if grouped else 8)]


@pytest.mark.parametrize("device_type", ["cuda", "xpu", "mps", "npu"])
def test_c1_1_no_accelerator_gets_groups_with_a_mask(device_type: str) -> None:
    assert attention.takes_groups("cpu")
    assert not attention.takes_groups(device_type)


def test_c1_1_repeated_heads_give_what_grouped_ones_give(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = attended(grouped_heads("cpu"))
    monkeypatch.setattr(attention, "takes_groups", lambda _: False)
    repeated = attended(grouped_heads("cpu"))
    assert repeated[1].abs().max() > 0.1
    torch.testing.assert_close(repeated, grouped, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_c1_1_on_cuda_no_scores_are_held(dtype: torch.dtype) -> None:
    tensors = grouped_heads("cuda", dtype, length=64)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]):  # an error without a kernel
        found = attended(tensors)
    expected = attended(grouped_heads("cpu", length=64))
    bound = 1e-4 if dtype == torch.float32 else 5e-2
    for mine, other in zip(found, expected, strict=True):
        assert (mine.float().cpu() - other).norm() <= bound * other.norm()
