"""Tokenizing without cutting targets, padding, packing, and the order of rows."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from helpers import CPU, documents, load_base, make_task
from softprompts.batching import Document, batch_order, encode, pack, pad
from softprompts.errors import UserError

import pytest
import torch
from hypothesis import given, settings, strategies
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_base(tiny_model)[1]


def encode_one(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, **settings: Any) -> Document:
    return encode(make_task([(prompt, target)], **settings), tokenizer, None).train[0].document


@pytest.mark.parametrize("target", [" good", "good", "\ngood film", " positive"])
@pytest.mark.parametrize("prompt", ["the film was", "a", "the plot\nsentiment:", "película"])
def test_prompt_and_target_are_the_joint_tokenization(
    tokenizer: PreTrainedTokenizerBase, prompt: str, target: str
) -> None:
    document = encode_one(tokenizer, prompt, target, choices=(target,))
    assert [*document.prompt_ids, *document.target_ids] == tokenizer(prompt + target).input_ids
    assert document.input_ids == document.prompt_ids + document.target_ids[:-1]


def test_a_target_that_fuses_with_its_prompt_is_tokenized_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt, target = "the fil", "m was"
    prompt_ids = tokenizer(prompt).input_ids
    assert tokenizer(prompt + target).input_ids[: len(prompt_ids)] != prompt_ids, "the two have to fuse"
    document = encode_one(tokenizer, prompt, target)
    assert list(document.prompt_ids) == prompt_ids
    assert list(document.target_ids[:-1]) == tokenizer(target, add_special_tokens=False).input_ids


def test_begin_of_sequence_stands_once_and_in_front(tokenizer: PreTrainedTokenizerBase) -> None:
    document = encode_one(tokenizer, "the film was", " good")
    assert document.prompt_ids[0] == tokenizer.bos_token_id
    assert (document.prompt_ids + document.target_ids).count(tokenizer.bos_token_id) == 1


def test_only_open_targets_end_in_end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> None:
    assert encode_one(tokenizer, "the film was", " good").target_ids[-1] == tokenizer.eos_token_id
    task = make_task([("the film was", " good")], choices=(" good", " very bad"))
    example = encode(task, tokenizer, None).train[0]
    texts = [tokenizer.decode(d.target_ids) for d in example.choices]
    assert texts == [" good", " very bad"]
    assert example.document == example.choices[0]


def test_an_end_of_sequence_token_that_the_tokenizer_adds_is_taken_off_the_prompt(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = encode_one(tokenizer, "the film was", " good")
    closing = type(tokenizer).__call__

    def closes(self: Any, text: str, add_special_tokens: bool = True) -> Any:
        encoding = closing(self, text, add_special_tokens=add_special_tokens)
        if add_special_tokens:
            encoding["input_ids"].append(self.eos_token_id)
        return encoding

    monkeypatch.setattr(type(tokenizer), "__call__", closes)
    assert encode_one(tokenizer, "the film was", " good") == plain


@pytest.mark.parametrize("part", ["prompt", "target"])
def test_a_text_that_tokenizes_to_nothing_is_refused_with_its_place(
    tokenizer: PreTrainedTokenizerBase, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some tokenizers normalise a text to nothing, a byte-level one does not: here it drops one character.
    original = type(tokenizer).__call__

    def drops(self: Any, text: str, add_special_tokens: bool = True) -> Any:
        text = text.replace("\u200b", "")
        return original(self, text, add_special_tokens=add_special_tokens and bool(text))

    monkeypatch.setattr(type(tokenizer), "__call__", drops)
    bad = ("\u200b", " good") if part == "prompt" else ("the film", "\u200b")
    with pytest.raises(UserError, match=rf"^row 2: the {part}.* tokenizes to nothing"):
        encode(make_task([("the film", " good"), bad]), tokenizer, None)


@pytest.mark.parametrize(("room", "max_length", "limit"), [(None, 8, 8), (8, 1024, 8), (6, 8, 6)])
def test_a_long_row_is_refused_with_its_place(
    tokenizer: PreTrainedTokenizerBase, room: int | None, max_length: int, limit: int
) -> None:
    task = make_task([("the film", " good"), ("the film was " * 9, " good")], max_length=max_length)
    with pytest.raises(UserError, match=rf"^row 2: \d+ tokens \(\d+ of them target\) do not fit into {limit};.*cut_pr"):
        encode(task, tokenizer, room)


@pytest.mark.parametrize(("room", "advice"), [(50, "raise task.max_length"), (6, "the base model takes no more")])
def test_the_advice_names_what_limits(tokenizer: PreTrainedTokenizerBase, room: int, advice: str) -> None:
    with pytest.raises(UserError, match=rf"do not fit into \d+; {advice}, shorten the row, or set"):
        encode(make_task([("the film was " * 9, " good")], max_length=8), tokenizer, room)


def test_a_row_that_just_fits_is_kept_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = encode_one(tokenizer, "the film was", " good")
    length = len(whole.prompt_ids) + len(whole.target_ids)
    assert encode_one(tokenizer, "the film was", " good", max_length=length) == whole
    with pytest.raises(UserError, match=f"do not fit into {length - 1};"):
        encode_one(tokenizer, "the film was", " good", max_length=length - 1)


@pytest.mark.parametrize("limit", range(6, 12))
def test_cut_prompt_cuts_from_the_left_and_never_the_target(tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
    prompt, target = "the film was a very good film and the cast was fine", " good plot"
    whole = encode_one(tokenizer, prompt, target)
    cut = encode_one(tokenizer, prompt, target, max_length=limit, long_rows="cut_prompt")
    assert cut.target_ids == whole.target_ids
    assert cut.prompt_ids[0] == whole.prompt_ids[0] == tokenizer.bos_token_id
    assert len(cut.prompt_ids) + len(cut.target_ids) == limit
    assert cut.prompt_ids[1:] == whole.prompt_ids[-(len(cut.prompt_ids) - 1) :]


def test_choices_of_one_row_are_scored_behind_the_same_cut_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    task = make_task(
        [("the film was a very good film", " good")],
        choices=(" good", " good plot and cast"),
        max_length=10,
        long_rows="cut_prompt",
    )
    short, long = encode(task, tokenizer, None).train[0].choices
    assert short.prompt_ids == long.prompt_ids
    assert len(long.prompt_ids) + len(long.target_ids) == 10


def test_an_end_token_that_is_the_texts_own_stays(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = encode_one(tokenizer, f"the film{tokenizer.eos_token}", " good").prompt_ids
    assert ids[-1] == tokenizer.eos_token_id


def test_a_target_that_would_be_cut_is_refused_even_with_cut_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"^row 1: .* do not fit into 4; raise task.max_length, shorten the row$"):
        encode_one(tokenizer, "the film", " good plot and cast", max_length=4, long_rows="cut_prompt")


@given(documents(300))
@settings(max_examples=40, deadline=None)
def test_pad_keeps_every_document_and_points_at_its_targets(docs: list[Document]) -> None:
    batch = pad(docs, CPU)
    width = max(len(d.input_ids) for d in docs)
    assert batch.input_ids.shape == batch.attention_mask.shape == (len(docs), width)
    for index, document in enumerate(docs):
        kept = batch.input_ids[index][batch.attention_mask[index].bool()]
        assert tuple(kept.tolist()) == document.input_ids
        assert batch.attention_mask[index].tolist() == sorted(batch.attention_mask[index].tolist(), reverse=True)
    assert batch.targets.tolist() == [t for d in docs for t in d.target_ids]
    assert batch.document.tolist() == [i for i, d in enumerate(docs) for _ in d.target_ids]
    assert batch.predictors.tolist() == [
        i * width + len(d.prompt_ids) - 1 + k for i, d in enumerate(docs) for k in range(len(d.target_ids))
    ]


@given(documents(300, most=9), strategies.integers(0, 20), strategies.sampled_from([0.0, 0.01, 1.0, 1e6]))
@settings(max_examples=60, deadline=None)
def test_pack_holds_every_document_whole_exactly_once(docs: list[Document], virtual: int, pair_cost: float) -> None:
    batch = pack(docs, virtual, 1.0, pair_cost, CPU)
    flat = batch.input_ids.flatten()
    places = [(batch.segment.flatten() == i).nonzero().flatten() for i in range(len(docs))]
    for document, place in zip(docs, places, strict=True):
        assert tuple(flat[place].tolist()) == document.input_ids
        assert batch.position.flatten()[place].tolist() == list(range(len(place)))
        first = int(place[0])
        assert place.tolist() == list(range(first, first + len(place))), "in one piece"
        assert first // batch.input_ids.shape[1] == int(place[-1]) // batch.input_ids.shape[1], "in one row"
    assert int((batch.segment >= 0).sum()) == sum(len(d.input_ids) for d in docs)
    filled = (batch.segment >= 0).sum(1)
    assert int(filled.max()) == batch.input_ids.shape[1], "no row is wider than the fullest"
    assert int(filled.min()) > 0, "no row is empty"
    assert batch.targets.tolist() == [t for d in docs for t in d.target_ids]
    assert batch.document.tolist() == [i for i, d in enumerate(docs) for _ in d.target_ids]
    expected = [
        int(p[0]) + len(d.prompt_ids) - 1 + k
        for d, p in zip(docs, places, strict=True)
        for k in range(len(d.target_ids))
    ]
    assert batch.predictors.tolist() == expected


def test_pack_weighs_long_rows_against_many() -> None:
    docs = [Document(tuple(range(20)), (1,)) for _ in range(6)]
    rows = [len(pack(docs, 10, 1.0, pair_cost, CPU).input_ids) for pair_cost in (0.0, 0.005, 1e9)]
    assert rows[0] == 1, "without a price on attention one row repeats the soft prompt least"
    assert rows[2] == 6, "where only attention costs, documents share nothing"
    assert rows == sorted(rows)
    assert 1 < rows[1] < 6


def test_longer_soft_prompts_share_a_row_with_more_documents() -> None:
    docs = [Document(tuple(range(20)), (1,)) for _ in range(6)]
    short, long = (len(pack(docs, virtual, 1.0, 0.02, CPU).input_ids) for virtual in (1, 60))
    assert long < short


@pytest.mark.parametrize("lay", [pad, lambda docs, device: pack(docs, 3, 1.0, 1.0, device)])
def test_an_empty_batch_is_refused(lay: Any) -> None:
    with pytest.raises(ValueError, match="empty batch"):
        lay([], torch.device("cpu"))


@given(strategies.integers(1, 30), strategies.integers(1, 12), strategies.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_batch_order_takes_every_row_once_an_epoch(rows: int, size: int, seed: int) -> None:
    epochs = 3
    batches = list(itertools.islice(batch_order(rows, size, seed), -(-rows * epochs // size)))
    assert {len(b) for b in batches} == {size}
    stream = [i for batch in batches for i in batch]
    for epoch in range(epochs):
        assert sorted(stream[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_batch_order_resumes_by_skipping_and_follows_the_seed() -> None:
    def take(seed: int, first: int, count: int) -> list[list[int]]:
        return list(itertools.islice(batch_order(20, 6, seed), first, first + count))

    assert take(0, 0, 12)[5:] == take(0, 5, 7)
    assert take(0, 0, 12) != take(1, 0, 12)
    epochs = [i for batch in take(0, 0, 12) for i in batch]
    assert epochs[:20] != epochs[20:40], "a new permutation every epoch"
