"""Padding, packing, sharing out, and the order of rows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from helpers import CPU, documents
from softprompts.encoding.documents import Document
from softprompts.engine.batches import Text, pack, pad
from softprompts.training.state import batch_order
from softprompts.training.step import share_out

import pytest
from hypothesis import given, settings, strategies


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


@given(documents(300, most=9, bank=3))
@settings(max_examples=60, deadline=None)
def test_in_a_pack_every_predictor_sees_its_document_so_far_and_nothing_else(docs: list[Document]) -> None:
    batch = pack(docs)
    ids, position, branch = (row.tolist() for row in (batch.input_ids, batch.position, batch.branch))
    starts = list(itertools.accumulate((text.length for text in batch.texts), initial=0))
    placed = zip(batch.texts, starts, strict=False)
    heads = {text.soft_prompt: range(start, start + text.length) for text, start in placed if text.head}
    predictors = iter(batch.predictors.tolist())
    for document in docs:
        for count in range(len(document.target_ids)):
            place = next(predictors)
            text = max(t for t, start in enumerate(starts) if start <= place)
            own = [i for i in range(starts[text], place + 1) if branch[i] in (0, branch[place])]
            seen = [*heads.get(document.soft_prompt, ()), *own]
            assert not batch.texts[text].head
            assert tuple(ids[i] for i in seen) == document.prompt_ids + document.target_ids[:count]
            assert [position[i] for i in seen] == list(range(len(seen)))
            assert batch.texts[text].soft_prompt == document.soft_prompt
    assert next(predictors, None) is None
    assert batch.targets.tolist() == [t for d in docs for t in d.target_ids]
    assert batch.document.tolist() == [i for i, d in enumerate(docs) for _ in d.target_ids]


@given(documents(300, most=9, bank=3))
@settings(max_examples=60, deadline=None)
def test_a_pack_reads_each_prompt_and_each_target_behind_it_once(docs: list[Document]) -> None:
    batch = pack(docs)
    texts = {(d.soft_prompt, d.prompt_ids) for d in docs}
    ends = {(d.soft_prompt, d.prompt_ids, d.target_ids[:-1]) for d in docs}
    heads = {text.soft_prompt: text.length for text in batch.texts if text.head}
    assert len(batch.texts) == len(texts) + len(heads)
    total = sum(text.length for text in batch.texts)
    assert len(batch.input_ids) == len(batch.position) == len(batch.branch) == total
    read = sum(len(ids) for _, ids in texts) + sum(len(ids) for _, _, ids in ends)
    assert total == read - sum(heads.get(k, 0) for k, _ in texts) + sum(heads.values())
    order = [(text.soft_prompt, not text.head, -text.length) for text in batch.texts]
    assert order == sorted(order), "by soft prompt, its head first, then the longest"
    for k in {k for k, _ in texts}:
        prompts = [ids for owner, ids in texts if owner == k]
        alike = [len(set(tokens)) == 1 for tokens in zip(*prompts, strict=False)]
        common = [*alike, False].index(False) if len(prompts) > 1 else 0
        assert heads.get(k, 0) == min(common, min(map(len, prompts)) - 1), "as long as all texts keep a token"


def test_choices_branch_off_their_common_prompt() -> None:
    row = (3, 4, 5)
    batch = pack([Document(row, (6, 7)), Document(row, (6, 8)), Document(row, (9,)), Document(row, (10, 11, 12))])
    assert batch.input_ids.tolist() == [3, 4, 5, 6, 10, 11], "the last token of a target is never read"
    assert batch.position.tolist() == [0, 1, 2, 3, 3, 4]
    assert batch.branch[:4].tolist() == [0, 0, 0, 1]
    assert batch.branch[4] == batch.branch[5] > 1
    assert batch.texts == (Text(0, 6),)
    assert batch.predictors.tolist() == [2, 3, 2, 3, 2, 2, 4, 5]
    assert batch.targets.tolist() == [6, 7, 6, 8, 9, 10, 11, 12]


def test_the_same_text_behind_two_soft_prompts_is_two_texts() -> None:
    batch = pack([Document((3, 4), (6,), 1), Document((3, 4), (6,), 0), Document((5,), (6,), 1)])
    assert batch.texts == (Text(0, 2), Text(1, 2), Text(1, 1))
    assert batch.predictors.tolist() == [3, 1, 4]


def test_what_all_texts_begin_with_is_read_once() -> None:
    rows = [
        Document((3, 4, 5), (6,)),
        Document((3, 4), (7, 8)),
        Document((3, 4, 9, 9), (6,)),
        Document((3, 5), (6,), 1),
    ]
    batch = pack(rows)
    assert batch.texts == (Text(0, 1, head=True), Text(0, 3), Text(0, 2), Text(0, 2), Text(1, 2))
    assert batch.input_ids.tolist() == [3, 4, 9, 9, 4, 5, 4, 7, 3, 5]
    assert batch.position.tolist() == [0, 1, 2, 3, 1, 2, 1, 2, 0, 1]
    assert batch.predictors.tolist() == [5, 6, 7, 3, 9]


@pytest.mark.parametrize("lay", [partial(pad, device=CPU), pack])
def test_an_empty_batch_is_refused(lay: Any) -> None:
    with pytest.raises(ValueError, match="empty batch"):
        lay([])


def tokens_of(share: Sequence[Document]) -> int:
    return sum(len(d.input_ids) for d in share)


@given(documents(300, most=12, bank=2), strategies.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_shares_hold_every_document_once_in_order_and_about_as_many_tokens_each(
    docs: list[Document], parts: int
) -> None:
    shares = share_out(docs, parts)
    assert len(shares) == parts
    assert Counter(d for share in shares for d in share) == Counter(docs)
    for share in shares:
        remaining = iter(docs)
        assert all(document in remaining for document in share), "a part keeps the order"
    assert parts > len(docs) or all(shares)
    longest = max(len(d.input_ids) for d in docs)
    assert max(map(tokens_of, shares)) <= tokens_of(docs) / parts + longest * (1 - 1 / parts)


@given(documents(300, most=6), strategies.integers(2, 3))
@settings(max_examples=25, deadline=None)
def test_the_largest_share_is_at_most_a_third_above_the_best_possible(docs: list[Document], parts: int) -> None:
    lengths = [len(d.input_ids) for d in docs]
    best = min(
        max(sum(n for n, owner in zip(lengths, owners, strict=True) if owner == part) for part in range(parts))
        for owners in itertools.product(range(parts), repeat=len(docs))
    )
    assert max(map(tokens_of, share_out(docs, parts))) <= 4 / 3 * best


def test_a_long_document_at_the_end_is_not_added_to_a_share_that_is_full() -> None:
    docs = [Document((1,) * n, (2,)) for n in (1, 1, 1, 1, 4)]
    assert sorted(map(tokens_of, share_out(docs, 2))) == [4, 4]


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
