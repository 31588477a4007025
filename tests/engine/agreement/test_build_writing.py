"""The check at the start writes eight tokens both ways, if the task has written answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import METHODS, load_base, load_tuned, make_task, method_engine
from softprompts.config.sections import ModelConfig
from softprompts.encoding.documents import Document
from softprompts.encoding.tokenization import encode
from softprompts.engine import build as agreement, generation
from softprompts.engine.build import different_answers, equally_likely, make_engine
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.models.loading import input_spec

import pytest
import torch

ROWS = [("the film was", " good"), ("a very dull plot and a poor cast", " bad"), ("the cast", " good")]
DOCUMENTS = [Document(tuple(range(20 * k, 20 * k + 3 + 5 * k)), (200,)) for k in range(1, 5)]
decode = generation.decode


def made(tiny_model: Path, mode: Any, choices: tuple[str, ...] | None = None) -> tuple[Engine, list[str]]:
    model, tokenizer = load_tuned(tiny_model)
    data = encode(make_task(ROWS, choices), tokenizer, input_spec(load_base(tiny_model)[0], 5))
    said: list[str] = []
    return make_engine(model, tokenizer, config=ModelConfig(engine=mode), data=data, say=said.append), said


def one_token_off(*arguments: Any) -> list[list[int]]:
    return [[*answer[:3], answer[3] ^ 1, *answer[4:]] for answer in decode(*arguments)]


@pytest.mark.parametrize("method", METHODS)
def test_c1_4_what_both_ways_write_is_the_same(tiny_model: Path, method: str) -> None:
    assert different_answers(method_engine(tiny_model, method), DOCUMENTS) is None


@pytest.mark.falls_back
def test_c1_4_written_answers_that_differ_are_a_difference(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "decode", one_token_off)
    made_engine, said = made(tiny_model, "auto")
    assert not made_engine.packed
    assert "after 3 generated tokens, token" in said[0]
    with pytest.raises(UserError, match=r"^model\.engine: packed does not match .* after 3 generated tokens"):
        made(tiny_model, "packed")


def test_c1_4_choices_are_not_written(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "decode", one_token_off)
    made_engine, said = made(tiny_model, "auto", (" good", " bad"))
    assert (made_engine.packed, said) == (True, [])


@pytest.mark.parametrize("ended", [0, 3])
def test_c1_4_an_answer_that_ends_elsewhere_is_a_difference(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, ended: int
) -> None:
    monkeypatch.setattr(generation, "decode", lambda *arguments: [answer[:ended] for answer in decode(*arguments)])
    said = different_answers(method_engine(tiny_model, "prompt tuning"), DOCUMENTS)
    assert f"after {ended} generated tokens, the end follows instead of token" in (said or "")


def test_c1_4_tokens_that_are_as_likely_are_no_difference(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "decode", one_token_off)
    monkeypatch.setitem(agreement.TOLERANCE, next(iter(load_base(tiny_model)[0].parameters())).dtype, (1e3, 1e3))
    assert different_answers(method_engine(tiny_model, "prompt tuning"), DOCUMENTS) is None


@pytest.mark.parametrize(
    ("nats", "largest", "dtype", "equal"),
    [
        ((0.673, 0.923), 40.0, torch.bfloat16, True),  # SmolLM2-135M on docstrings: one step of such a logit
        ((0.673, 0.923), 10.0, torch.bfloat16, False),  # four steps
        ((0.673, 0.923), 40.0, torch.float32, False),
        ((0.673, 1.7), 40.0, torch.bfloat16, False),
        ((0.673, float("nan")), 40.0, torch.bfloat16, False),
    ],
)
def test_c1_4_logits_are_rounded_too(
    nats: tuple[float, float], largest: float, dtype: torch.dtype, equal: bool
) -> None:
    assert equally_likely(*nats, largest, dtype) is equal


def test_c1_4_a_bug_of_ours_in_writing_is_raised(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any) -> Callable[[], None]:
        raise AttributeError("ours")

    monkeypatch.setattr(generation, "decode", bug)
    with pytest.raises(AttributeError, match="ours"):
        different_answers(method_engine(tiny_model, "prompt tuning"), DOCUMENTS)
