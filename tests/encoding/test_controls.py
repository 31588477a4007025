"""Control tokens in the text of rows give one warning, with their number and the first row's place."""

from __future__ import annotations

from pathlib import Path

from helpers import load_base, make_task
from softprompts.encoding.controls import control_tokens
from softprompts.encoding.tokenization import encode
from softprompts.tasks.task import with_prompt

import pytest
from transformers import AutoTokenizer

ROWS = [("the film", " good"), ("the </s> plot", " bad"), ("<s> and </s>", " bad"), ("a <plot>", " bad")]
# Tasks from `with_prompt` divide the rows among three splits; tasks from `make_task` have the same rows in each.
SAID = (
    'task.prompt: 2 of 4 rows contain control tokens of the tokenizer, e.g. "</s>" in row 2; '
    "the model does not read them as text; remove them unless they are intended"
)
THRICE = SAID.replace("2 of 4", "6 of 12")


def test_control_tokens_in_the_text_of_rows_are_said_once(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_base(tiny_model)[1]
    for _ in range(2):
        encode(make_task(ROWS), tokenizer)
    assert capsys.readouterr().err == f"warning: {SAID}\n"


def test_those_of_the_template_and_of_targets_are_meant(tiny_model: Path) -> None:
    tokenizer = load_base(tiny_model)[1]
    task = make_task([("the film", " good</s>")])
    assert control_tokens(with_prompt(task, "<s>{text}</s>"), tokenizer) == []
    assert control_tokens(with_prompt(make_task(ROWS), "<s>{text}"), tokenizer) == [THRICE]


def test_solved_examples_do_not_make_their_rows_those_of_others(tiny_model: Path) -> None:
    tokenizer = load_base(tiny_model)[1]
    task = make_task(ROWS)
    shots = [task.splits["train"][1]]
    assert control_tokens(with_prompt(task, "{text}<s>", shots, "\n"), tokenizer) == [THRICE]


def test_a_tokenizer_that_takes_them_for_text_is_believed(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, split_special_tokens=True)
    assert control_tokens(make_task(ROWS), tokenizer) == []
