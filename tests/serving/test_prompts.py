"""Texts of requests are tokenized as rows of training are, without another look at the tokenizer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from helpers import load_base, make_task
from made_tokenizers import byte_level, metaspace_bytes, unigram
from softprompts.encoding.encoder import Encoder
from softprompts.encoding.tokenization import encode, end_of_answer
from softprompts.errors import UserError
from softprompts.models.loading import InputSpec
from softprompts.serving.prompts import Prompts
from softprompts.serving.tasks import ServedTask

import pytest
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)
TEXTS = ["the film was good", "a plot,  dull\n", "1 2 10", "Zoë 世界 \U0001f600"]
CHOICES = [(" good", " bad"), ("good", "bad"), (" good", " good film", " bad"), (" 1", " 10", " 1 10")]


def made(kind: str, tiny_model: Path) -> PreTrainedTokenizerBase:
    kinds = {"byte level": byte_level, "bytes": metaspace_bytes, "unigram": unigram}
    tokenizer: Any = kinds[kind]() if kind in kinds else load_base(tiny_model)[1]
    tokenizer.chat_template = CHAT
    return tokenizer  # type: ignore[no-any-return]


def served(tokenizer: Any, **settings: Any) -> ServedTask:
    task = ServedTask("t", None, None, {"task": {"prompt": "{text}\nSentiment:", "target": " {label}", **settings}})
    return ServedTask("t", None, None, task.settings, end=end_of_answer(task.as_task(), tokenizer))


@pytest.mark.parametrize("kind", ["tiny", "byte level", "bytes", "unigram"])
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("choices", CHOICES)
def test_a_request_has_the_tokens_of_a_row(tiny_model: Path, kind: str, chat: bool, choices: tuple[str, ...]) -> None:
    tokenizer = made(kind, tiny_model)
    spec = InputSpec("decoder", 4096, len(tokenizer))
    prompts, task = Prompts(tokenizer, spec), served(tokenizer, chat=chat)
    rows = [(f"{text}\nSentiment:", choices[0]) for text in TEXTS]
    data = encode(make_task(rows, choices=choices, chat=chat), tokenizer, spec)
    for text, example in zip(TEXTS, data.test, strict=True):
        prompt_ids, choice_ids = prompts.choice_ids(task, text, choices)
        assert tuple(prompt_ids) == example.document.prompt_ids
        assert choice_ids == tuple(document.target_ids for document in example.choices)
        assert prompts.filled_ids(task, text) == prompt_ids
        assert prompts.filled_ids(task, {"text": text}) == prompt_ids


def test_no_request_makes_another_encoder(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = made("tiny", tiny_model)
    prompts = Prompts(tokenizer, InputSpec())
    tasks = [served(tokenizer), served(tokenizer, chat=True)]
    count = 0
    begin = Encoder.__init__

    def counted(*arguments: Any) -> None:
        nonlocal count
        count += 1
        begin(*arguments)

    monkeypatch.setattr(Encoder, "__init__", counted)
    for task in tasks:
        for choices in CHOICES:
            prompts.choice_ids(task, TEXTS[0], choices)
        prompts.filled_ids(task, TEXTS[0])
    prompts.raw_ids(TEXTS[0])
    prompts.chat_ids(served(tokenizer), [{"role": "user", "content": "a"}])
    assert count == 0


def test_threads_do_not_disturb_each_other(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softprompts.serving.prompts.REMEMBERED", 20)  # the small cache drops entries often
    tokenizer = made("tiny", tiny_model)
    prompts = Prompts(tokenizer, InputSpec())
    assert prompts.encoder.is_in_pieces
    texts = [f"{text} {number} film w{number % 50}" for number in range(100) for text in TEXTS]
    expected = [tokenizer(text).input_ids for text in texts]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(prompts.raw_ids, texts)) == expected


def test_what_no_row_could_be_is_refused(tiny_model: Path) -> None:
    tokenizer = made("tiny", tiny_model)
    prompts = Prompts(tokenizer, InputSpec("decoder", None, 100))
    task = served(tokenizer)
    with pytest.raises(UserError, match=r"has the number .* only embeddings of 100 tokens"):
        prompts.raw_ids("the film was good")
    with pytest.raises(UserError, match=r"has the number .* only embeddings of 100 tokens"):
        prompts.chat_ids(ServedTask("base", None, None, {}), [{"role": "user", "content": "the film was good"}])
    with pytest.raises(UserError, match=r"choices: 1000 are too many after a prompt of 20,011 characters"):
        prompts.choice_ids(task, "a " * 10_000, [f" {number}" for number in range(1000)])
    with pytest.raises(UserError, match=r"^choices: ' a' and ' a' are the same tokens"):
        Prompts(tokenizer, InputSpec()).choice_ids(task, "a", [" a", " a"])
