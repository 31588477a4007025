"""Choices of any words: those that begin one another, that share words, or that no tokenizer tells apart."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from helpers import (
    cli_in_process,
    load_base,
    make_task,
    read_result,
    recipe_command,
    task_config,
    tiny_flags,
)
from made_tokenizers import byte_level, metaspace_bytes, unigram, wordpiece
from softprompts.encoding.documents import EncodedTask
from softprompts.encoding.tokenization import encode
from softprompts.errors import UserError
from softprompts.evaluation.hard_prompts import draw_shots
from softprompts.models.loading import InputSpec
from softprompts.tasks.task import load_task, with_prompt

import pytest
from tokenizers import AddedToken
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

NESTED = (" good", " good film", " good film cast")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_base(tiny_model)[1]


def encoded(choices: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, kind: str = "decoder") -> EncodedTask:
    rows = [("the film was", choices[0]), ("a very dull plot", choices[-1])]
    return encode(make_task(rows, choices), tokenizer, InputSpec(kind))  # type: ignore[arg-type]


def prefix_free(ids: list[tuple[int, ...]]) -> bool:
    return not any(b[: len(a)] == a for a, b in pairwise(sorted(ids)))


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize(
    "choices",
    [NESTED, (" 1", " 10", " 2"), (" A", " A+"), (" x", " xy"), (" no", " not sure"), (" good", " good, bad")],
)
def test_a1_choices_that_begin_one_another_get_an_end(
    choices: tuple[str, ...], kind: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    for example in encoded(choices, tokenizer, kind).train:
        ids = [document.target_ids for document in example.choices]
        assert all(target[-1] == tokenizer.eos_token_id for target in ids)
        assert prefix_free(ids)
        assert example.document.target_ids == ids[choices.index(example.row.target)]


def test_a1_other_choices_get_none(tokenizer: PreTrainedTokenizerBase) -> None:
    for example in encoded((" good", " bad", " lovely film"), tokenizer).train:
        ids = [document.target_ids for document in example.choices]
        assert prefix_free(ids)
        assert not any(tokenizer.eos_token_id in target for target in ids)


def test_a1_in_a_chat_it_is_the_end_of_a_message(tokenizer: PreTrainedTokenizerBase) -> None:
    chatty = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    chatty.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{{ '<pad>' if m['role'] == 'assistant' else ':' }}{% endfor %}"
    )
    task = make_task([("the film", " good"), ("the plot", " good film")], (" good", " good film"), chat=True)
    example = encode(task, chatty).train[0]
    assert {document.target_ids[-1] for document in example.choices} == {chatty.convert_tokens_to_ids("<pad>")}


def test_a1_behind_solved_examples_it_is_what_ended_theirs(
    tiny_model: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [("the film", " good"), ("the plot", " good film")]
    task = make_task(rows, (" good", " good film"))
    shown = with_prompt(task, "{text}", draw_shots(task, 1, 0), "\n\n")
    (end,) = {document.target_ids[-1] for document in encode(shown, tokenizer).train[0].choices}
    assert tokenizer.decode([end]).startswith("\n")
    assert encode(with_prompt(task, "{text}"), tokenizer).train[0].choices[0].target_ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("make", [byte_level, metaspace_bytes])
@pytest.mark.parametrize("separator", ["\n\n", "\n", " ; ", "###"])
def test_a1_behind_solved_examples_it_is_the_token_that_follows_there(make: Any, separator: str) -> None:
    rows = [("the film", " good"), ("the plot", " goodx")]
    task, tokenizer = make_task(rows, (" good", " goodx")), make()
    shown = with_prompt(task, "{text}", draw_shots(task, 2, 0), separator)
    prompt = shown.splits["train"][0].prompt
    whole = tokenizer(prompt).input_ids
    solved = tokenizer(prompt[: prompt.index(separator)]).input_ids
    assert whole[: len(solved)] == solved
    (end,) = {document.target_ids[-1] for document in encode(shown, tokenizer).train[0].choices}
    assert end == whole[len(solved)]


def test_a1_two_line_breaks_are_one_token_only_where_a_text_ends() -> None:
    tokenizer = byte_level()
    assert len(tokenizer("\n\n").input_ids) == 1
    assert len(tokenizer("\n\nthe").input_ids) > len(tokenizer("the").input_ids) + 1


@pytest.mark.parametrize("choices", [(" good", " good film"), (" 1", " 1 2")])
@pytest.mark.parametrize("separator", ["\n\n", " ; "])
def test_a1_an_encoder_decoder_ends_its_answers_itself_behind_solved_examples(
    choices: tuple[str, str], separator: str
) -> None:
    task, tokenizer = make_task([("the film", choices[0]), ("the plot", choices[1])], choices), unigram()
    shown = with_prompt(task, "{text}", draw_shots(task, 1, 0), separator)
    data = encode(shown, tokenizer, InputSpec("encoder-decoder"))
    assert {d.target_ids[-1] for d in data.train[0].choices} == {tokenizer.eos_token_id}


def test_a4_the_end_of_a_message_may_be_special_without_a_name() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("<turn>", special=True, normalized=False)], special_tokens=False)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<turn>\n{% endfor %}"
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    assert turn not in tokenizer.all_special_ids
    data = encode(make_task([("the film", " good")], chat=True), tokenizer)
    assert data.train[0].document.target_ids[-1] == data.ends[0] == turn


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_a1_training_tells_them_apart(
    kind: str, tmp_path: Path, tiny_model: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.dumps({"text": text, "label": label}) for text, label in [("great lovely", 1), ("dull poor", 10)] * 8]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    flags = tiny_flags(tiny_model if kind == "decoder" else tiny_t5, tmp_path, tmp_path / "run") | {
        "task.choices": "from_train",
        "training.steps": 40,
        "training.learning_rate": 0.01,
        "training.warmup_steps": 0,
        "training.eval_every": 40,
        "training.best_by": "loss",
    }
    code, _, errors = cli_in_process(recipe_command("full_finetuning", "sentiment", flags), capsys)
    assert code == 0, errors
    record = read_result(tmp_path / "run")
    assert record["metrics"]["accuracy"]["value"] == 1.0
    assert record["baselines"]["majority_class"]["accuracy"]["value"] == 0.5


def test_a12_choices_of_the_same_tokens_are_refused() -> None:
    with pytest.raises(UserError, match=r"task\.choices: '👍' and '👎' are the same tokens.*row 1"):
        encoded(("👍", "👎"), unigram(), "encoder-decoder")
    with pytest.raises(UserError, match=r"'Good' and 'good' are the same tokens"):
        encoded(("Good", "good"), wordpiece())


def test_a12_a_target_that_no_tokens_give_back_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    task = make_task([("the film", "good"), ("the plot", '{"a": 1}')])
    encode(task, unigram(), InputSpec("encoder-decoder"))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"warning: the tokenizer cannot reproduce 3 of 6 targets.*row 2: .*<unk>.*", line)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ([" good", " good"], "' good' appears twice"),
        ([" good", " good "], "' good ' and ' good' differ only in spaces"),
        ({"1": " good", "2": "good"}, "differ only in spaces"),
    ],
)
def test_a12_choices_that_read_alike_are_refused(choices: object, said: str, tiny_task: Path) -> None:
    with pytest.raises(UserError, match=said):
        load_task(task_config(tiny_task, choices=choices))


def test_a17_labels_that_share_a_word_are_one_choice(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        lines = [f'{{"text": "film {stars}", "label": "{stars}"}}' for stars in (1, 2, 4, 5)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = {" 1": " bad", " 2": " bad", " 4": " good", " 5": " good"}
    task = load_task(task_config(tmp_path, choices=words))
    assert task.choices == (" bad", " good")
    assert [row.target for row in task.splits["train"]] == [" bad", " bad", " good", " good"]
