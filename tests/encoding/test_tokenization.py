"""Rows as token ids: targets are never cut, and each kind of model is served its own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import load_base, make_task
from softprompts.encoding.documents import Document, EncodedTask, Example, with_soft_prompt, with_soft_prompts
from softprompts.encoding.tokenization import check_lengths, encode
from softprompts.errors import UserError
from softprompts.models.loading import InputSpec

import pytest
from transformers import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_base(tiny_model)[1]


def encode_one(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, **settings: Any) -> Document:
    return encode(make_task([(prompt, target)], **settings), tokenizer).train[0].document


def closing(original: Any) -> Any:
    """Return a tokenizer's `__call__` that adds an end-of-sequence token to every text."""

    def closes(self: Any, text: str, add_special_tokens: bool = True) -> Any:
        encoding = original(self, text, add_special_tokens=add_special_tokens)
        if add_special_tokens:
            encoding["input_ids"].append(self.eos_token_id)
        return encoding

    return closes


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
    example = encode(task, tokenizer).train[0]
    texts = [tokenizer.decode(d.target_ids) for d in example.choices]
    assert texts == [" good", " very bad"]
    assert example.document == example.choices[0]


def test_an_end_of_sequence_token_that_the_tokenizer_adds_is_taken_off_the_prompt(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = encode_one(tokenizer, "the film was", " good")
    monkeypatch.setattr(type(tokenizer), "__call__", closing(type(tokenizer).__call__))
    assert encode_one(tokenizer, "the film was", " good") == plain


@pytest.mark.parametrize("part", ["prompt", "target"])
def test_a_text_that_tokenizes_to_nothing_is_refused_with_its_place(
    tokenizer: PreTrainedTokenizerBase, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some tokenizers normalise a text to an empty one. A byte-level tokenizer does not; here it drops one character.
    original = type(tokenizer).__call__

    def drops(self: Any, text: str, add_special_tokens: bool = True) -> Any:
        text = text.replace("\u200b", "")
        return original(self, text, add_special_tokens=add_special_tokens and bool(text))

    monkeypatch.setattr(type(tokenizer), "__call__", drops)
    bad = ("\u200b", " good") if part == "prompt" else ("the film", "\u200b")
    with pytest.raises(UserError, match=rf"^row 2: the {part}.* tokenizes to nothing"):
        encode(make_task([("the film", " good"), bad]), tokenizer)


@pytest.mark.parametrize(("room", "max_length", "limit"), [(None, 8, 8), (8, 1024, 8), (6, 8, 6)])
def test_a_long_row_is_refused_with_its_place(
    tokenizer: PreTrainedTokenizerBase, room: int | None, max_length: int, limit: int
) -> None:
    task = make_task([("the film", " good"), ("the film was " * 9, " good")], max_length=max_length)
    with pytest.raises(UserError, match=rf"^row 2: \d+ tokens \(\d+ of them target\) do not fit into {limit};.*cut_pr"):
        encode(task, tokenizer, InputSpec(room=room))


@pytest.mark.parametrize(
    ("room", "advice"), [(50, "raise task.max_length"), (6, "the base model has no more positions")]
)
def test_the_advice_names_what_limits(tokenizer: PreTrainedTokenizerBase, room: int, advice: str) -> None:
    with pytest.raises(UserError, match=rf"do not fit into \d+; {advice}, shorten the row, or set"):
        encode(make_task([("the film was " * 9, " good")], max_length=8), tokenizer, InputSpec(room=room))


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
    short, long = encode(task, tokenizer).train[0].choices
    assert short.prompt_ids == long.prompt_ids
    assert len(long.prompt_ids) + len(long.target_ids) == 10


def test_an_end_token_that_is_the_texts_own_stays(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = encode_one(tokenizer, f"the film{tokenizer.eos_token}", " good").prompt_ids
    assert ids[-1] == tokenizer.eos_token_id


def test_a_target_that_would_be_cut_is_refused_even_with_cut_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"^row 1: .* do not fit into 4; raise task.max_length, shorten the row$"):
        encode_one(tokenizer, "the film", " good plot and cast", max_length=4, long_rows="cut_prompt")


def test_an_encoder_decoder_reads_the_end_of_sequence_that_its_tokenizer_adds(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tokenizer), "__call__", closing(type(tokenizer).__call__))
    long = make_task([("the film was a good film", " good")], max_length=7, long_rows="cut_prompt")
    for task in (make_task([("the film was", " good")]), long):
        ids = encode(task, tokenizer, InputSpec("encoder-decoder")).train[0].document.prompt_ids
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert encode(long, tokenizer).train[0].document.prompt_ids[-1] != tokenizer.eos_token_id


def test_for_an_encoder_the_target_is_the_number_of_the_choice(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [("the film was fine", " good"), ("the plot", " very bad")]
    first, second = encode(make_task(rows, choices=(" good", " very bad")), tokenizer, InputSpec("encoder")).train
    assert [(d.prompt_ids, d.target_ids) for d in first.choices] == [
        (tuple(tokenizer(rows[0][0]).input_ids), (number,)) for number in (0, 1)
    ]
    assert (first.document.target_ids, second.document.target_ids) == ((0,), (1,))


def test_what_stands_in_front_of_every_text_of_an_encoder_is_kept_when_it_is_cut(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.cls_token, tokenizer.bos_token = tokenizer.bos_token, None
    task = make_task([("the film was a good film", "a")], choices=("a", "b"), max_length=5, long_rows="cut_prompt")
    whole = tokenizer("the film was a good film").input_ids
    document = encode(task, tokenizer, InputSpec("encoder")).train[0].document
    assert document.prompt_ids == (tokenizer.cls_token_id, *whole[-4:])


def numbers(data: EncodedTask) -> list[list[int]]:
    """Return for each row of each split the soft prompts of its document and choices."""
    rows = [*data.train, *data.validation, *data.test]
    return [[d.soft_prompt for d in (e.document, *e.choices)] for e in rows]


def test_documents_and_choices_go_behind_the_soft_prompt_that_is_asked_for(tokenizer: PreTrainedTokenizerBase) -> None:
    task = make_task([("the film", " good"), ("the plot", " bad")], choices=(" good", " bad"))
    data = encode(task, tokenizer)
    assert numbers(with_soft_prompt(data, 4)) == [[4] * 3] * 6
    assert numbers(data) == [[0] * 3] * 6, "what went in stays as it is"

    def place(example: Example) -> int:
        return int(example.row.place.removeprefix("row "))

    moved = with_soft_prompts(data, place)
    assert numbers(moved) == [[1] * 3, [2] * 3] * 3
    assert [e.document.prompt_ids for e in moved.test] == [e.document.prompt_ids for e in data.test]


@pytest.mark.parametrize("choices", [None, (" good", " lovely great film of the year")])
def test_rows_must_fit_behind_a_longer_soft_prompt(tiny_model: Path, choices: tuple[str, ...] | None) -> None:
    """A longer choice is read in the place of the target, also after a prompt whose own target is short."""
    _, tokenizer = load_base(tiny_model)
    task = make_task([("the film was very", " good")] * 3, choices=choices)
    data = encode(task, tokenizer, InputSpec(room=200))
    prompt, target = data.train[0].document.prompt_ids, data.train[0].document.target_ids
    longest = max(map(len, [target, *(d.target_ids for d in data.train[0].choices)])) - 1  # the last one is not read
    check_lengths(data, InputSpec(room=len(prompt) + longest))
    check_lengths(data, InputSpec(room=None))
    with pytest.raises(
        UserError, match=r"^num_virtual_tokens: the longest row has \d+ tokens, and these virtual tokens"
    ):
        check_lengths(data, InputSpec(room=len(prompt) + longest - 1))
