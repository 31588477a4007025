"""Generation after cached soft prompts equals decoding by hand, alone and in any batch."""

from __future__ import annotations

from pathlib import Path

from helpers import METHODS, bank_engine, by_hand, load_base, load_tuned, make_task, method_engine, scores
from softprompts.encoding.documents import Document
from softprompts.encoding.endings import before
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.engine.generation import answers, generate

import pytest
import torch
from peft import PeftModel

PROMPTS = [(5, 6), tuple(range(20, 33)), tuple(range(100, 140))]


@pytest.fixture(scope="module")
def engines(tiny_model: Path) -> dict[str, Engine]:
    return {method: method_engine(tiny_model, method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_cached_generation_equals_uncached_alone_and_in_a_padded_batch(engines: dict[str, Engine], method: str) -> None:
    engine = engines[method]
    expected = [by_hand(engine, prompt, 8) for prompt in PROMPTS]
    assert [generate(engine, [prompt], 8)[0] for prompt in PROMPTS] == expected
    assert generate(engine, PROMPTS, 8) == expected
    assert all(expected)
    assert len(set(expected)) == len(PROMPTS)


@pytest.mark.parametrize("method", METHODS)
def test_what_all_texts_begin_with_is_read_once_and_changes_nothing(engines: dict[str, Engine], method: str) -> None:
    engine, head = engines[method], tuple(range(40, 70))
    headed = [head + prompt for prompt in PROMPTS]
    read: list[int] = []
    hook = engine.base.register_forward_pre_hook(
        lambda _, args, inputs: read.append(inputs.get("inputs_embeds", inputs.get("input_ids")).shape[:2].numel()),
        with_kwargs=True,
    )
    with engine.prompts_cached():
        written = generate(engine, headed, 1)
        assert sum(read) <= len(head) + 5 + len(PROMPTS) * max(map(len, PROMPTS))
        read.clear()
        assert generate(engine, headed, 1) == written
        assert sum(read) <= len(PROMPTS) * max(map(len, PROMPTS)), "a second batch reads the rest only"
    hook.remove()
    assert generate(engine, headed, 8) == [by_hand(engine, prompt, 8) for prompt in headed]


@pytest.mark.parametrize("prefix", [False, True])
def test_texts_behind_different_soft_prompts_share_no_head(tiny_model: Path, prefix: bool) -> None:
    together, alone = bank_engine(tiny_model, prefix=prefix)
    owners = [2, 0, 1, 1, 0, 2]
    heads = {0: tuple(range(40, 52)), 1: (), 2: tuple(range(70, 95))}
    prompts = [heads[owner] + PROMPTS[i] for owner, i in zip(owners, (0, 1, 2, 0, 2, 1), strict=True)]
    expected = [by_hand(alone[owner], prompt, 8) for owner, prompt in zip(owners, prompts, strict=True)]
    assert generate(together, prompts, 8, soft_prompts=owners) == expected


@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning", "P-tuning MLP"])
def test_on_one_row_it_says_what_pefts_own_generate_says(engines: dict[str, Engine], method: str) -> None:
    engine = engines[method]
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            theirs = engine.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=8,
                do_sample=False,
                pad_token_id=engine.tokenizer.pad_token_id,
            )
        text = engine.tokenizer.decode(theirs[0, len(prompt) :]).removesuffix(engine.tokenizer.eos_token)
        assert generate(engine, [prompt], 8) == [text]


@pytest.mark.parametrize("prefix", [False, True])
def test_rows_behind_soft_prompts_of_different_lengths_generate_as_each_alone(tiny_model: Path, prefix: bool) -> None:
    together, alone = bank_engine(tiny_model, prefix=prefix)
    owners = [2, 0, 1, 1, 0, 2]
    prompts = [PROMPTS[i] for i in (0, 1, 2, 0, 2, 1)]
    expected = [by_hand(alone[owner], prompt, 8) for owner, prompt in zip(owners, prompts, strict=True)]
    assert generate(together, prompts, 8, soft_prompts=owners) == expected
    assert len(set(expected)) == len(expected), "each soft prompt says something else"
    assert generate(together, prompts[1:2], 8) == expected[1:2], "by default behind the first"


def test_rows_without_a_soft_prompt_stand_beside_rows_with_one(tiny_model: Path) -> None:
    tuned, tokenizer = load_tuned(tiny_model)
    base = tuned.get_base_model()
    together = Engine(tuned, tokenizer, packed=True, bank=[base])
    expected = [by_hand(Engine(model, tokenizer), prompt, 8) for model in (tuned, base) for prompt in PROMPTS]
    assert generate(together, PROMPTS * 2, 8, soft_prompts=[0, 0, 0, 1, 1, 1]) == expected


def test_a_batch_runs_the_encoder_of_its_soft_prompt_once(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = PeftModel.get_prompt
    monkeypatch.setattr(
        PeftModel, "get_prompt", lambda model, *a, **more: calls.append(1) or original(model, *a, **more)
    )
    generate(engines["P-tuning MLP"], PROMPTS, 8)
    assert len(calls) == 1


def test_sampling_is_passed_on(engines: dict[str, Engine]) -> None:
    engine = engines["prompt tuning"]
    torch.manual_seed(0)
    drawn = {generate(engine, PROMPTS[:1], 8, do_sample=True, temperature=5.0)[0] for _ in range(4)}
    assert len(drawn) > 1
    assert {generate(engine, PROMPTS[:1], 8)[0] for _ in range(2)} == {by_hand(engine, PROMPTS[0], 8)}


def test_an_answer_ends_in_front_of_a_stop(engines: dict[str, Engine]) -> None:
    engine = engines["prompt tuning"]
    whole = generate(engine, PROMPTS, 12)
    stop = whole[0].lstrip()[2:4]
    assert stop.strip()
    expected = [before(text, [stop]) for text in whole]
    assert expected[0] != whole[0]
    read: list[int] = []
    hook = engine.base.register_forward_pre_hook(lambda *_: read.append(1))
    assert generate(engine, PROMPTS, 12, stop=[stop]) == expected
    read.clear()
    assert generate(engine, PROMPTS[:1], 12, stop=[stop]) == expected[:1]
    assert len(read) < 12, "it does not go on behind it"
    hook.remove()


@pytest.mark.parametrize("method", ["base", "prompt tuning", "prefix tuning", "lora"])
def test_rows_that_have_ended_are_not_computed_any_more(engines: dict[str, Engine], method: str) -> None:
    engine = engines[method]
    prompts = [tuple(range(start, start + 3 + start % 5)) for start in range(20, 150, 13)]
    whole = generate(engine, prompts, 16)
    stops = [text.lstrip()[2 * k + 1 : 2 * k + 5] for k, text in enumerate(whole)]
    stops = [stop for stop in stops if stop]
    expected = [before(text, stops) for text in whole]
    assert len({len(text) for text in expected}) > 3, "they end one after another"
    rows: list[int] = []
    hook = engine.base.register_forward_pre_hook(
        lambda _, args, inputs: rows.extend([len(inputs["input_ids"])] if "input_ids" in inputs else []),  # or a prompt
        with_kwargs=True,
    )
    try:
        assert generate(engine, prompts, 16, stop=stops) == expected
    finally:
        hook.remove()
    assert rows[-1] <= len(prompts) // 2
    assert rows == sorted(rows, reverse=True)


def tokens_of(engine: Engine, new: int) -> list[list[int]]:
    """Return the tokens that each prompt is continued with: read again from the text they would be others."""
    return [answers(engine, [prompt], {"max_new_tokens": new})[0] for prompt in PROMPTS]


@pytest.mark.parametrize("end_tokens", ["one", "several"])
def test_an_end_token_ends_a_row_and_the_others_go_on(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch, end_tokens: str
) -> None:
    engine = engines["prompt tuning"]
    whole = generate(engine, PROMPTS, 12)
    ids = tokens_of(engine, 12)
    ends = [ids[0][2]] if end_tokens == "one" else [row[k + 2] for k, row in enumerate(ids)]
    monkeypatch.setattr(engine, "ends", tuple(ends))
    alone = [generate(engine, [prompt], 12)[0] for prompt in PROMPTS]
    assert sum(text != answer for text, answer in zip(whole, alone, strict=True)) == len(ends)
    assert generate(engine, PROMPTS, 12) == alone


def test_the_fewest_new_tokens_count_over_all_rounds(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines["prompt tuning"]
    ids = tokens_of(engine, 12)
    # Two rows end after the fewest tokens; the third would end at its sixth token, but needs two more then.
    ends = [ids[0][3], ids[1][3], ids[2][5]]
    assert [next(i for i, token in enumerate(row) if token in ends) for row in ids] == [3, 3, 5]
    monkeypatch.setattr(engine, "ends", tuple(ends))
    fewest = [generate(engine, [prompt], 12, min_new_tokens=2)[0] for prompt in PROMPTS]
    assert generate(engine, PROMPTS, 12, min_new_tokens=2) == fewest


def test_rows_that_are_generated_apart_each_end_in_front_of_a_stop(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines["prompt tuning"]
    whole = generate(engine, PROMPTS, 12)
    stops = [text.lstrip()[4:6] for text in whole]
    # With a short window, the rows of one length are generated at a time.
    monkeypatch.setattr("softprompts.engine.generation.window_of", lambda _: 4)
    assert generate(engine, PROMPTS, 12, stop=stops) == [before(text, stops) for text in whole]


@pytest.mark.parametrize(
    ("answer", "texts", "expected"),
    [
        (" on\nText: off", ["\n"], " on"),
        ("\n on\noff", ["\n"], "\n on"),
        (" a. b\nc", ["\n", "."], " a"),
        (" on", ["\n"], " on"),
        ("", ["\n"], ""),
    ],
)
def test_before_a_stop(answer: str, texts: list[str], expected: str) -> None:
    assert before(answer, texts) == expected


def test_generating_nothing_is_refused(engines: dict[str, Engine]) -> None:
    with pytest.raises(ValueError, match="empty batch"):
        generate(engines["prompt tuning"], [], 8)


@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning", "P-tuning LSTM", "lora"])
def test_generation_and_logits_with_an_adapter_differ_from_the_base(engines: dict[str, Engine], method: str) -> None:
    # The canary for a soft prompt that is silently ignored (peft#2123, #2134, #2043).
    assert generate(engines[method], PROMPTS, 8) != generate(engines["base"], PROMPTS, 8)
    for packed in (True, False):
        ours, base = (scores(engines[m], [Document(PROMPTS[1], (40,))], packed).logits for m in (method, "base"))
        assert (ours - base).abs().max() > 0.1


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning"])
def test_a_disabled_adapter_leaves_the_base(engines: dict[str, Engine], method: str, packed: bool) -> None:
    engine, documents = engines[method], [Document(PROMPTS[1], (40, 41))]
    with engine.model.disable_adapter():
        ours, text = scores(engine, documents, packed).logits, generate(engine, PROMPTS, 8)
    torch.testing.assert_close(ours, scores(engines["base"], documents, packed).logits)
    assert text == generate(engines["base"], PROMPTS, 8)


@pytest.mark.parametrize("packed", [True, False])
def test_the_side_that_the_tokenizer_pads_on_does_not_matter(tiny_model: Path, packed: bool) -> None:
    texts = make_task([("the film was", " good"), ("a very dull plot and a poor cast", " bad")])
    docs = [e.document for e in encode(texts, load_base(tiny_model)[1]).train]
    results = []
    for side in ("left", "right"):
        model, tokenizer = load_tuned(tiny_model)
        tokenizer.padding_side = side
        engine = Engine(model, tokenizer, packed)
        results.append((engine(docs)[0], generate(engine, [d.prompt_ids for d in docs], 6)))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
