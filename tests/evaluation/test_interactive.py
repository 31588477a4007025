"""A user's texts: formatted like the rows of the adapter's run, and answered."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from helpers import load_base, load_tuned
from made_tokenizers import words
from softprompts.config.tools import InputConfig, SamplingConfig
from softprompts.encoding.documents import Example
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.errors import UserError
from softprompts.evaluation.interactive import answer, check_sampling, own_flags, task_of_texts
from softprompts.evaluation.predict import choice_scores
from softprompts.models.loading import InputSpec

import pytest
import torch

SETTINGS = {"task": {"prompt": "{review}\nsentiment:", "target": " {label}", "choices": [" good", " bad"]}}
TEXTS = ["the film was fine", "the plot was dull"]


def rows(config: InputConfig, settings: dict[str, Any] | None = None) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the prompts of a task and its choices."""
    task = task_of_texts(config, settings or {})
    assert task.splits["train"] == task.splits["test"] == task.splits["validation"]
    return [row.prompt for row in task.splits["test"]], task.choices


def test_texts_go_into_the_template_of_the_run() -> None:
    prompts, choices = rows(InputConfig(TEXTS), SETTINGS)
    assert prompts == [f"{text}\nsentiment:" for text in TEXTS]
    assert choices == (" good", " bad")


def test_without_a_run_a_text_stands_as_it_is_and_the_model_writes() -> None:
    assert rows(InputConfig(TEXTS)) == (TEXTS, None)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ({"0": " bad", "1": " good"}, (" bad", " good")),
        ({"0": " bad", "1": " good", "2": " bad", "3": " good"}, (" bad", " good")),
        ("from_train", None),
        (None, None),
    ],
)
def test_choices_of_the_run(listed: Any, expected: tuple[str, ...] | None) -> None:
    assert rows(InputConfig(TEXTS), {"task": SETTINGS["task"] | {"choices": listed}})[1] == expected


@pytest.mark.parametrize("template", ["{a[0]} :", "{a[b][c]} :"])
def test_a_text_may_stand_inside_a_column(template: str) -> None:
    assert rows(InputConfig(["fine"]), {"task": {"prompt": template}}) == (["fine :"], None)


@pytest.mark.parametrize("settings", [{"choices": [" a", "\ud83d"]}, {"system": "\ud83d"}])
def test_half_a_character_of_a_run_is_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^the choices and the system message of the run: holds \\ud83d: half of a "):
        rows(InputConfig(TEXTS), {"task": SETTINGS["task"] | settings})


def test_a_tokenizer_need_not_know_the_answer_to_a_text_of_ones_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = words("</s>", eos_token="</s>")  # of whole words, and no question mark among them
    data = encode(task_of_texts(InputConfig(["the film was", "zzz"]), {}), tokenizer, InputSpec(), needs_end=False)
    assert all(len(example.document.target_ids) == 2 for example in data.test)
    assert capsys.readouterr().err == ""


def test_what_is_asked_for_wins_over_the_run() -> None:
    config = InputConfig(["fine"], template="a {film} b", choices=[" x", " y", " z"])
    assert rows(config, SETTINGS) == (["a fine b"], (" x", " y", " z"))


def test_choices_get_the_space_of_the_runs_targets() -> None:
    assert rows(InputConfig(TEXTS, choices=["good", " bad", "very bad"]), SETTINGS)[1] == (" good", " bad", " very bad")
    assert rows(InputConfig(TEXTS, choices=["good", "bad"]))[1] == ("good", "bad"), "no run, so no space is known"


def test_an_empty_list_of_choices_is_no_choices() -> None:
    assert rows(InputConfig(TEXTS, choices=[]), SETTINGS)[1] is None


@pytest.mark.parametrize(
    ("before", "asked", "expected"),
    [(True, None, True), (True, False, False), (False, True, True), (None, None, False)],
)
def test_chat_is_that_of_the_run_unless_it_is_asked_for(
    before: bool | None, asked: bool | None, expected: bool
) -> None:
    settings = {"task": {"system": "be brief"} | ({} if before is None else {"chat": before})}
    config = task_of_texts(InputConfig(TEXTS, chat=asked), settings).config
    assert config.chat is expected
    assert config.system == "be brief"


def test_c7_a_text_may_be_longer_than_the_rows_of_the_run(tiny_model: Path) -> None:
    task = task_of_texts(InputConfig(["the film " * 20]), {"task": {"max_length": 7}})
    (example,) = encode(task, load_base(tiny_model)[1], InputSpec(room=200)).test
    assert len(example.document.prompt_ids) > 20


def test_c7_advice_names_only_flags_that_there_are(tiny_model: Path) -> None:
    task = task_of_texts(InputConfig(["the film " * 20]), {})
    message = r"^text 1: \d+ tokens \(\d+ of them target\) do not fit into 9; .*, so shorten the text$"
    with pytest.raises(UserError, match=message), own_flags():
        encode(task, load_base(tiny_model)[1], InputSpec(room=9))
    with pytest.raises(UserError, match=r"^input\.template: ends in a space"):
        task_of_texts(InputConfig(["a"], template="{text} "), {})
    with pytest.raises(UserError, match=r"^input\.chat: the tokenizer of \S+ has no chat template$"), own_flags():
        encode(task_of_texts(InputConfig(["a"], chat=True), {}), load_base(tiny_model)[1], InputSpec(room=200))


def test_lines_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the film \n\n  \nthe {plot}\n"))
    assert rows(InputConfig()) == (["the film ", "the {plot}"], None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (InputConfig(), r"^input\.text: expected a text; set it, or write lines to standard input$"),
        (
            InputConfig(["a"], template="{b} and {a}"),
            r"^input\.template: expected exactly one column for the text, found a, b in '\{b\} and \{a\}'$",
        ),
        (
            InputConfig(["a"], template="text"),
            r"^input\.template: expected exactly one column .*, found none in 'text'$",
        ),
    ],
)
def test_what_cannot_be_tried(config: InputConfig, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n\n"))
    with pytest.raises(UserError, match=message):
        task_of_texts(config, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "sampling.max_new_tokens: expected a number above 0, found 0"),
        ({"temperature": -0.1}, "sampling.temperature: expected 0 or more, found -0.1"),
        ({"temperature": math.nan}, "sampling.temperature: expected 0 or more, found nan"),
        ({"top_p": 0.0}, "sampling.top_p: expected a number above 0 and at most 1, found 0.0"),
        ({"top_p": 1.1}, "sampling.top_p: expected a number above 0 and at most 1, found 1.1"),
    ],
)
def test_sampling_without_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        SamplingConfig(**settings)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return Engine(*load_tuned(tiny_model))


def examples(engine: Engine, config: InputConfig, settings: dict[str, Any] | None = None) -> list[Example]:
    return encode(task_of_texts(config, settings or {}), engine.tokenizer, InputSpec(room=200)).test


def test_the_likeliest_choice_with_its_probability(engine: Engine) -> None:
    tried = examples(engine, InputConfig(TEXTS, choices=[" good", " very bad", " fine film"]), SETTINGS)
    found = answer(engine, tried, SamplingConfig(), {})
    with torch.no_grad():
        for text, example, scores in zip(found, tried, choice_scores(engine, tried), strict=True):
            shares = torch.tensor(scores).softmax(-1)
            best = int(shares.argmax())
            assert text == f"{example.choice_texts[best].strip()} ({shares[best]:.0%})"


@pytest.mark.parametrize("choices", [None, [" good", " very bad"]])
def test_many_texts_are_not_read_at_once(engine: Engine, choices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = examples(engine, InputConfig(TEXTS * 3, choices=choices), SETTINGS)
    whole = answer(engine, tried, SamplingConfig(), {})
    monkeypatch.setattr("softprompts.evaluation.interactive.BATCH", 2)
    seen: list[int] = []
    for name, original in (("generate", generate), ("choice_scores", choice_scores)):

        def counted(engine: Engine, rows: Any, *more: Any, original: Any = original, **named: Any) -> Any:
            seen.append(len(rows))
            return original(engine, rows, *more, **named)

        monkeypatch.setattr(f"softprompts.evaluation.interactive.{name}", counted)
    assert answer(engine, tried, SamplingConfig(), {}) == whole
    assert max(seen) == 2


def test_an_answer_is_the_likeliest_unless_it_is_drawn(engine: Engine) -> None:
    tried = examples(engine, InputConfig(TEXTS))
    greedy = answer(engine, tried, SamplingConfig(max_new_tokens=5), {})
    assert greedy == generate(engine, [e.document.prompt_ids for e in tried], 5)
    assert answer(engine, tried, SamplingConfig(max_new_tokens=5, top_p=0.5, seed=3), {}) == greedy, "at temperature 0"
    drawn = [answer(engine, tried, SamplingConfig(5, 2.0, 1.0, seed), {}) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert answer(engine, tried, SamplingConfig(5, 1e-4, 1.0, 0), {}) == greedy


def test_a_prediction_ends_as_in_the_evaluation_of_the_run(engine: Engine) -> None:
    tried = examples(engine, InputConfig(TEXTS[:1]))
    (whole,) = answer(engine, tried, SamplingConfig(max_new_tokens=12), {})
    assert answer(engine, tried, SamplingConfig(), {"evaluation": {"max_new_tokens": 12}}) == [whole]
    stop = whole.strip()[-2:]
    (cut,) = answer(engine, tried, SamplingConfig(), {"evaluation": {"max_new_tokens": 12, "stop": [stop]}})
    assert whole.startswith(cut)
    assert stop not in cut
    (shorter,) = answer(engine, tried, SamplingConfig(max_new_tokens=2), {"evaluation": {"max_new_tokens": 12}})
    assert len(shorter) < len(whole)


def test_sampling_does_not_apply_to_choices() -> None:
    task = task_of_texts(InputConfig(TEXTS), SETTINGS)
    check_sampling(SamplingConfig(), task)
    message = (
        r"^sampling\.temperature: applies only to generated predictions, but the 2 choices are scored; set input.ch"
    )
    with pytest.raises(UserError, match=message):
        check_sampling(SamplingConfig(temperature=0.7), task)
    check_sampling(SamplingConfig(temperature=0.7), task_of_texts(InputConfig(TEXTS, choices=[]), SETTINGS))


def test_a_chat_is_tried_as_a_chat(tiny_model: Path, engine: Engine) -> None:
    tokenizer = load_base(tiny_model)[1]
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    task = task_of_texts(InputConfig(["the film"], chat=True), {"task": {"system": "be brief"}})
    (example,) = encode(task, tokenizer, InputSpec(room=200)).test
    assert tokenizer.decode(example.document.prompt_ids) == "[be brief][the film]"


def test_b7_bytes_on_standard_input_that_are_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reads them as halves of surrogate pairs, which tokenizers do not accept."""
    lines = io.TextIOWrapper(io.BytesIO(b"fine\ncaf\xe9\n"), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", lines)
    with pytest.raises(UserError, match=r"^standard input, line 2: not UTF-8 \(byte 0xe9\)$"):
        rows(InputConfig())
