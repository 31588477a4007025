"""The check at the start: its comparisons, its bounds, and its errors."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from helpers import METHODS, bank_engine, load_base, load_tuned, make_task
from made_models import STATES
from softprompts.config.sections import ModelConfig
from softprompts.encoding.documents import Document, EncodedTask, Example
from softprompts.encoding.tokenization import encode
from softprompts.engine import build as agreement, layout
from softprompts.engine.batches import PackedBatch, pack
from softprompts.engine.build import checked_documents, disagreement, make_engine
from softprompts.engine.forward import Engine
from softprompts.engine.kv_cache import States
from softprompts.engine.layout import Group, Layout
from softprompts.errors import UserError
from softprompts.models.windows import bounds_of, unknown_layers, window_of
from softprompts.tasks.task import Row

import numpy
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    PegasusConfig,
    PegasusForConditionalGeneration,
    XLNetConfig,
    XLNetLMHeadModel,
)
from transformers.models.llama.modeling_llama import LlamaAttention

# Nothing in common, not even a first token, and no target that is like another's.
APART = [Document(tuple(range(20 * k, 20 * k + 3 + 2 * k)), (200 + k, 210 + k)) for k in range(1, 6)]
CHOICES = ((250,), (251, 252), (253, 254, 255), (256,))


def data_of(documents: Sequence[Document], choices: Sequence[tuple[int, ...]] = ()) -> EncodedTask:
    """Return a task with these documents in all splits, each with these choices."""
    examples = [
        Example(Row(f"row {n}", "", "", {}), d, tuple(replace(d, target_ids=c) for c in choices), ("",) * len(choices))
        for n, d in enumerate(documents)
    ]
    return EncodedTask(make_task([("", "")]), examples, examples, examples)


def made(tiny_model: Path, data: EncodedTask, mode: Any = "auto", bank: int = 0) -> tuple[Engine, list[str]]:
    """Return the engine of `make_engine`, and its messages."""
    said: list[str] = []
    if bank:
        models, tokenizer = [e.model for e in bank_engine(tiny_model, range(2, 2 + bank))[1]], load_base(tiny_model)[1]
    else:
        model, tokenizer = load_tuned(tiny_model)
        models = [model]
    return make_engine(
        models[0], tokenizer, config=ModelConfig(engine=mode), data=data, say=said.append, bank=models[1:]
    ), said


group_of = layout._group


def blind_to_branches(*arguments: Any) -> Group:
    return group_of(*arguments[:-1], torch.zeros_like(arguments[-1]))


def heads_out_of_place(documents: Sequence[Document], seen: None) -> PackedBatch:
    batch = pack(documents, seen)
    if batch.texts[0].head:
        behind = numpy.arange(len(batch.position)) >= batch.texts[0].length
        return replace(batch, position=batch.position + behind)
    return batch


@pytest.mark.falls_back
@pytest.mark.parametrize("choices", [(), CHOICES])
@pytest.mark.parametrize(
    ("target", "wrong"), [("engine.layout._group", blind_to_branches), ("engine.forward.pack", heads_out_of_place)]
)
def test_c1_3_choices_and_common_beginnings_are_compared(
    tiny_model: Path, target: str, wrong: Any, choices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rows, which have neither, agree."""
    data = data_of(APART, choices)
    assert made(tiny_model, data)[0].packed
    monkeypatch.setattr(f"softprompts.{target}", wrong)
    assert disagreement(Engine(*load_tuned(tiny_model)), APART) is None
    engine, said = made(tiny_model, data)
    assert not engine.packed
    assert "the loss is" in said[0]


of_states = Engine._states


def doubled_values(engine: Engine, index: int, head: tuple[int, ...]) -> States | None:
    states = of_states(engine, index, head)
    return states and [(keys, 2 * values) for keys, values in states]


@pytest.mark.falls_back
def test_c1_3_what_evaluation_keeps_is_compared(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_states", doubled_values)
    engine, said = made(tiny_model, data_of(APART))
    assert not engine.packed
    assert "with cached keys and values of the soft prompt, the loss is" in said[0]


@pytest.mark.falls_back
@pytest.mark.parametrize("wrong", range(7))
def test_c1_3_each_soft_prompt_is_compared_even_if_rows_are_few(
    tiny_model: Path, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, original = data_of(APART[:2]), Engine.soft_prompt
    assert made(tiny_model, data, bank=7)[0].packed
    monkeypatch.setattr(Engine, "soft_prompt", lambda e, k: original(e, k) * (0.5 if k == wrong else 1))
    assert not made(tiny_model, data, bank=7)[0].packed


@pytest.mark.parametrize("choices", [(), CHOICES])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_checked_documents_branch_begin_alike_and_are_no_longer_than_the_rows(
    tiny_model: Path, choices: Any, count: int
) -> None:
    data = data_of(APART[:count], choices)
    engine = Engine(*load_tuned(tiny_model))
    first, branched = checked_documents(engine, data)
    assert first == APART[:count]
    longest = max(len(d.prompt_ids) + len(d.target_ids) for e in data.train for d in (e.document, *e.choices))
    assert max(len(d.prompt_ids) + len(d.target_ids) for d in branched) <= longest
    batch = pack(branched)
    assert (batch.branch > 1).any() == (count > 1 or bool(choices)), "several targets behind a prompt"
    assert batch.texts[0].head == (count > 1)


@pytest.mark.parametrize("target", ["engine.forward.lay_out", "engine.attention._attention", "engine.padded.pad"])
def test_c1_4_a_bug_of_ours_is_no_disagreement(tiny_model: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any, **__: Any) -> Any:
        raise TypeError("a bug")

    data = data_of(APART)
    monkeypatch.setattr(f"softprompts.{target}", bug)
    with pytest.raises(TypeError, match="a bug"):
        made(tiny_model, data)


@pytest.mark.falls_back
def test_c1_4_the_traceback_of_a_model_that_raises_is_logged(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Like Falcon and MPT, whose own code does not accept a layout."""

    def attends(module: Any, *arguments: Any, **more: Any) -> Any:
        if "layout" in more:
            raise AttributeError("'NoneType' object has no attribute 'to'")
        return original(module, *arguments, **more)

    original = LlamaAttention.forward
    monkeypatch.setattr(LlamaAttention, "forward", attends)
    with caplog.at_level(logging.DEBUG, "softprompts.engine.build"):
        said = made(tiny_model, data_of(APART))[1]
    assert said[0].endswith("it raises AttributeError: 'NoneType' object has no attribute 'to'")
    assert "modeling_llama.py" in caplog.text
    assert "Traceback (most recent call last)" in caplog.text


def full_above(most: int, sizes: list[int]) -> Callable[..., Any]:
    original = Engine._packed

    def packed(engine: Engine, documents: Sequence[Document]) -> Any:
        sizes.append(len(documents))
        return torch.empty(10**16) if len(documents) > most else original(engine, documents)

    return packed


def test_c1_4_full_memory_in_the_check_is_no_disagreement_but_fewer_rows_at_once(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(Engine, "_packed", full_above(3, sizes))
    engine, said = made(tiny_model, data_of(APART))
    assert engine.packed
    assert said == []
    # Each part in training and in evaluation; the rows, then those with several targets.
    assert sizes == [5, 3, 3, 2, 2, 6, 3, 3, 3, 3]


@pytest.mark.parametrize(("trains", "key"), [(True, "training.micro_batch_tokens"), (False, "evaluation.batch_size")])
def test_c1_4_full_memory_at_a_single_row_is_an_error(
    tiny_model: Path, trains: bool, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "_packed", full_above(0, []))
    model, tokenizer = load_tuned(tiny_model)
    model.requires_grad_(trains)
    with pytest.raises(UserError, match=rf"^out of memory for a single row of \d+ tokens, which {key} cannot divide"):
        make_engine(model, tokenizer, config=ModelConfig(), data=data_of(APART), say=print)


def test_a_base_in_float64_is_packed_and_an_unknown_type_is_not(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(*load_tuned(tiny_model))
    engine.double()
    assert disagreement(engine, APART) is None
    monkeypatch.setattr(agreement, "TOLERANCE", {})
    assert disagreement(engine, APART) == "the rounding of torch.float64 is unknown"


SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}


def tuned_base(base: Any) -> Any:
    torch.manual_seed(1)
    return get_peft_model(
        base.eval().requires_grad_(False), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    ).eval()


@pytest.mark.falls_back
def test_layers_that_look_back_in_chunks_are_not_packed(tiny_model: Path) -> None:
    """Rows shorter than a chunk agree, which proves nothing about longer ones."""
    torch.manual_seed(0)
    config = Llama4TextConfig(
        **SIZES, intermediate_size_mlp=64, num_local_experts=2, attention_chunk_size=32, no_rope_layer_interval=4
    )
    model, tokenizer = tuned_base(Llama4ForCausalLM(config)), load_base(tiny_model)[1]
    said: list[str] = []
    engine = make_engine(model, tokenizer, config=ModelConfig(), data=data_of(APART), say=said.append)
    assert not engine.packed
    assert "it does not support layers of chunked_attention, attention_chunk_size 32" in said[0]
    assert window_of(engine.base) == 32
    with pytest.raises(UserError, match=r"^model.engine: packed .*layers of chunked_attention"):
        make_engine(model, tokenizer, config=ModelConfig(engine="packed"), data=data_of(APART), say=said.append)


def tuned_other(base: Any, method: str) -> Any:
    """Return a PEFT model over a base model, or the base model itself."""
    base.eval().requires_grad_(False)
    task_type = "SEQ_2_SEQ_LM" if base.config.is_encoder_decoder else "CAUSAL_LM"
    configs: dict[str, Any] = {
        "prompt tuning": PromptTuningConfig(task_type=task_type, num_virtual_tokens=4, num_transformer_submodules=1),
        "prefix tuning": PrefixTuningConfig(task_type=task_type, num_virtual_tokens=4),
        "lora": LoraConfig(task_type=task_type, target_modules=["q_proj"]),
    }
    return get_peft_model(base, configs[method]).eval() if method in configs else base


def of_pegasus(scale: bool) -> Any:
    config = PegasusConfig(
        vocab_size=300,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        init_std=0.2,
        scale_embedding=scale,
        decoder_start_token_id=0,
    )
    return PegasusForConditionalGeneration(config)


def of_bart() -> Any:
    """It scales in its embedding layer, and so in both ways."""
    sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=300,
            d_model=32,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            init_std=0.2,
            scale_embedding=True,
            **sizes,
        )
    )


def of_falcon_h1(multiplier: float) -> Any:
    return FalconH1ForCausalLM(FalconH1Config(**SIZES | STATES["falcon_h1"], embedding_multiplier=multiplier))


@pytest.mark.falls_back
@pytest.mark.parametrize(
    ("make", "method", "refused"),
    [
        (partial(of_pegasus, True), "prompt tuning", True),
        (partial(of_pegasus, False), "prompt tuning", False),
        (partial(of_pegasus, True), "lora", False),
        (partial(of_pegasus, True), "base", False),
        (of_bart, "prompt tuning", False),
        (partial(of_falcon_h1, 2.0), "prompt tuning", True),
        (partial(of_falcon_h1, 1.0), "prompt tuning", False),
        (partial(of_falcon_h1, 2.0), "lora", False),
        (lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES)), "prompt tuning", False),
        (lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES)), "prefix tuning", False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_reads_ids_in_another_way_than_embeddings_gets_no_soft_prompt(
    tiny_model: Path, make: Callable[[], Any], method: str, refused: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    engine = Engine(tuned_other(make().to(dtype), method), load_base(tiny_model)[1])
    if not refused:
        make_engine(engine.model, engine.tokenizer, config=ModelConfig(engine="stock"), data=data_of(APART), say=print)
        return
    with pytest.raises(UserError, match=r"^model.name_or_path: a \w+ model reads token ids in another way than their"):
        make_engine(engine.model, engine.tokenizer, config=ModelConfig(), data=data_of(APART), say=print)


@pytest.mark.falls_back
def test_a_decoder_that_reads_later_tokens_is_refused(tiny_model: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "initializer_range": 0.2}
    base = XLNetLMHeadModel(XLNetConfig(**sizes)).eval()
    message = r"^model.name_or_path: a xlnet model predicts each token from the later ones as well"
    with pytest.raises(UserError, match=message):
        make_engine(base, load_base(tiny_model)[1], config=ModelConfig(), data=data_of(APART), say=print)


class Described:
    """A model by its config."""

    def __init__(self, **settings: Any) -> None:
        self.config = LlamaConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "bounds", "unknown"),
    [
        ({}, {}, None),
        ({"sliding_window": 64}, {"sliding_window": 64}, None),
        ({"sliding_window": None, "use_sliding_window": True, "max_window_layers": 28}, {}, None),
        ({"sliding_window_pattern": 6, "chunk_size_feed_forward": 8}, {}, None),
        ({"window_size": 8, "sliding_window": 4}, {"window_size": 8, "sliding_window": 4}, None),
        ({"attention_chunk_size": 8}, {"attention_chunk_size": 8}, "it does not support attention_chunk_size 8"),
        ({"keep_window_size": 8}, {"keep_window_size": 8}, "it does not support keep_window_size 8"),
        ({"index_topk": 2048}, {"index_topk": 2048}, "it does not support index_topk 2048"),
        ({"layer_types": ["full_attention", "sliding_attention"] * 16}, {}, None),
        ({"layer_types": ["full_attention", "conv"] * 16}, {}, "it does not support layers of conv"),
        ({"layers_block_type": ["mamba", "attention"] * 16}, {}, "it does not support layers of mamba"),
    ],
)
def test_what_bounds_how_far_layers_look_back(settings: Any, bounds: dict[str, int], unknown: str | None) -> None:
    base = Described(**settings)
    assert bounds_of(base) == bounds
    assert window_of(base) == min(bounds.values(), default=float("inf"))
    assert unknown_layers(base) == unknown


@pytest.mark.falls_back
def test_the_longest_row_is_compared_where_windows_are_shorter(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    base = Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=16, query_pre_attn_scalar=8))
    model, tokenizer = tuned_base(base), load_base(tiny_model)[1]
    short = [Document((10 + k, 20 + k, 30 + k), (40 + k,)) for k in range(9)]
    data = data_of([*short, Document(tuple(range(60, 120)), (7, 8))])
    monkeypatch.setattr(Layout, "mask", lambda found, index, window: found.groups[index].sees)
    said: list[str] = []
    assert make_engine(model, tokenizer, config=ModelConfig(), data=data_of(short), say=said.append).packed, (
        "nothing to see"
    )
    assert not make_engine(model, tokenizer, config=ModelConfig(), data=data, say=said.append).packed
    assert len(said) == 1


@pytest.mark.falls_back
@pytest.mark.parametrize(
    ("longest", "choices"),
    [(Document(tuple(range(60, 73)), (7, 8)), ()), (Document((60,), (7,)), ((7,), (8,), (9,), tuple(range(80, 95))))],
    ids=["a row", "a choice"],
)
def test_virtual_tokens_and_choices_count_in_a_window(
    tiny_model: Path, longest: Document, choices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 positions, the soft prompt has 4."""
    torch.manual_seed(0)
    model = tuned_base(Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=16, query_pre_attn_scalar=8)))
    short = [Document((10 + k, 20 + k, 30 + k), (7,)) for k in range(9)]
    data = data_of([*short, longest], choices)
    assert len(longest.input_ids) <= 16
    monkeypatch.setattr(Layout, "mask", lambda found, index, window: found.groups[index].sees)
    engine = make_engine(model, load_base(tiny_model)[1], config=ModelConfig(), data=data, say=[].append)
    assert not engine.packed


def test_the_check_leaves_the_engine_as_it_was(tiny_model: Path) -> None:
    for packed in (True, False):
        engine = Engine(*load_tuned(tiny_model), packed=packed)
        assert disagreement(engine, APART) is None
        assert engine.packed is packed
        assert engine._cached is None


def test_auto_is_packed_on_a_task_with_choices(tiny_model: Path) -> None:
    rows = [(f"the film was very {word}", f" {word}") for word in ("good", "bad")] * 3
    data = encode(make_task(rows, choices=(" good", " bad")), load_base(tiny_model)[1])
    engine, said = made(tiny_model, data)
    assert engine.packed
    assert said == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["base", "prompt tuning", "prefix tuning", "P-tuning MLP", "lora"])
def test_every_method_agrees_on_a_base_in_half_precision(tiny_model: Path, method: str, dtype: str) -> None:
    base, tokenizer = load_base(tiny_model, dtype=dtype)
    torch.manual_seed(0)
    config = METHODS[method]
    model = base if config is None else get_peft_model(base, copy.deepcopy(config)).eval()
    branched = [replace(d, target_ids=t) for d in APART[:2] for t in CHOICES]
    assert disagreement(Engine(model, tokenizer), [*APART, *branched]) is None


Seen = list[tuple[torch.dtype, int, float]]  # dtype, rows and slack of each look


def looked(
    tiny_model: Path,
    dtype: str,
    differs: Callable[[torch.dtype, int, float], bool],
    monkeypatch: pytest.MonkeyPatch,
    found: str = agreement.Off("the loss is off"),
) -> tuple[Seen, Engine, list[str]]:
    """Return what was looked at if it differs as said, the engine, and its warnings."""
    seen: Seen = []

    def look(engine: Engine, documents: Sequence[Document], slack: float) -> str | None:
        seen.append((engine.base.dtype, len(documents), slack))
        return found if differs(*seen[-1]) else None

    monkeypatch.setattr(agreement, "disagreement", look)
    monkeypatch.setattr(agreement, "CHECKED_ROWS", 5)
    data = data_of(APART * 8, CHOICES)
    base, tokenizer = load_base(tiny_model, dtype=dtype)
    before = [(p.data_ptr(), p.dtype) for p in base.parameters()]
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    said: list[str] = []
    monkeypatch.setattr(agreement, "_branching", lambda *_: [])
    original = agreement.checked_documents
    monkeypatch.setattr(agreement, "checked_documents", lambda *given: [original(*given)[0]])
    engine = make_engine(model, tokenizer, config=ModelConfig(), data=data, say=said.append)
    assert [(p.data_ptr(), p.dtype) for p in base.parameters()] == before, "the same weights as before, not copies"
    return seen, engine, said


SHORT, EXACT, ROUND = torch.bfloat16, torch.float32, agreement.MOST_ROUNDING
DECIDED = [(SHORT, 5, 1.0), (EXACT, 5, 1.0), (SHORT, 5, ROUND)]


@pytest.mark.falls_back
@pytest.mark.parametrize(("dtype", "differs", "seen", "packed"), [
    ("float32", lambda *_: True, [(EXACT, 5, 1.0)], False),
    ("bfloat16", lambda *_: False, [(SHORT, 5, 1.0)], True),
    ("bfloat16", lambda dtype, _, slack: dtype == SHORT and slack == 1, DECIDED, True),
    ("bfloat16", lambda *_: True, DECIDED[:2], False),
    ("bfloat16", lambda dtype, *_: dtype == SHORT, DECIDED, False),
], ids=["32 bits", "alike", "rounding", "another result", "too much for rounding"])  # fmt: skip
def test_a_difference_in_16_bits_is_decided_in_32(
    tiny_model: Path, dtype: str, differs: Any, seen: Seen, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few-shot examples have the same rounding in every row, so that a mean over rows has it, too."""
    found, engine, said = looked(tiny_model, dtype, differs, monkeypatch)
    assert (found, engine.packed, len(said)) == (seen, packed, not packed)


@pytest.mark.falls_back
def test_an_error_in_16_bits_is_not_looked_at_again(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding makes numbers different, and no errors, also if their text is about numbers."""
    found, engine, _ = looked(tiny_model, "bfloat16", lambda *_: True, monkeypatch, "it raises Wrong: the loss is off")
    assert (found, engine.packed) == ([(SHORT, 5, 1.0)], False)


@pytest.mark.parametrize("wrong", ["in training", "the gradient", "in evaluation"])
def test_differences_that_rounding_can_make_are_marked(
    tiny_model: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(*load_tuned(tiny_model))
    of_prompt = Engine.soft_prompt

    def halved(engine: Engine, index: int) -> Any:
        prompt = of_prompt(engine, index)
        return (prompt + prompt.detach()) / 2 if wrong == "the gradient" else 2 * prompt

    name, value = ("_states", doubled_values) if wrong == "in evaluation" else ("soft_prompt", halved)
    monkeypatch.setattr(Engine, name, value)
    difference = disagreement(engine, APART)
    assert isinstance(difference, agreement.Off)
    said = {"in training": "the loss is ", "the gradient": "the gradient is off", "in evaluation": "with cached keys"}
    assert difference.startswith(said[wrong])


@pytest.mark.falls_back
@pytest.mark.parametrize("many", [True, False])
def test_without_32_bits_more_rows_have_the_last_word(
    tiny_model: Path, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantized weights have no copy in 32 bits."""
    monkeypatch.setattr(agreement, "any_sharded", lambda _: True)
    found, engine, _ = looked(tiny_model, "bfloat16", lambda _, rows, __: many or rows < 32, monkeypatch)
    assert ([rows for _, rows, _ in found], engine.packed) == ([5, 32], not many)
