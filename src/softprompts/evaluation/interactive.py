"""Texts of one's own as a task, formatted as the run that trained an adapter formatted its rows."""

from __future__ import annotations

import math
import re
import string
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from softprompts.config.sections import TaskConfig
from softprompts.data.sources import SPLITS
from softprompts.data.values import Record
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.evaluation.predict import choice_scores
from softprompts.system.streams import lines_of_input
from softprompts.tasks.documents import Example
from softprompts.tasks.task import Row, Task, check_characters, check_template, render

import torch


@dataclass
class InputConfig:
    """What to try.

    Args:
        text: texts to put into the template; by default the lines of standard input.
        template: prompt template with one `{column}`; by default that of the run which trained the adapter, else the
            text as it is.
        choices: score these answers by likelihood; by default those of the run, if it names them, else the model
            writes its answer.
        chat: put the prompt into the tokenizer's chat template; by default as in the run.
    """

    text: list[str] = field(default_factory=list)
    template: str | None = None
    choices: list[str] | None = None
    chat: bool | None = None


@dataclass
class SamplingConfig:
    """How an answer is written.

    Args:
        max_new_tokens: longest answer.
        temperature: 0 takes the likeliest token each time; above 0 tokens are drawn.
        top_p: draw among the likeliest tokens that hold this share of the probability.
        seed: seed of the draws.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"sampling.max_new_tokens: expected a number above 0, found {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"sampling.temperature: expected 0 or more, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling.top_p: expected a number above 0 and at most 1, found {self.top_p}")


def answer(engine: Engine, examples: Sequence[Example], sampling: SamplingConfig) -> list[str]:
    """Return each example's likeliest choice with its probability among the choices, or the answer that is written."""
    if examples[0].choices:
        with torch.inference_mode():
            scores = torch.tensor(choice_scores(engine, examples)).softmax(-1)
        if scores.isnan().any():
            raise UserError("the model's scores are not finite: its answers mean nothing; try model.dtype float32")
        best = [(row.max().item(), int(row.argmax())) for row in scores]
        return [f"{e.choice_texts[i].strip()} ({p:.0%})" for e, (p, i) in zip(examples, best, strict=True)]
    drawn: dict[str, Any] = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    torch.manual_seed(sampling.seed)
    documents = [e.document for e in examples]
    return engine.generate(
        [d.prompt_ids for d in documents],
        sampling.max_new_tokens,
        [d.soft_prompt for d in documents],
        **(drawn if sampling.temperature else {}),
    )


@contextmanager
def own_flags() -> Iterator[None]:
    """Let errors name the settings that a text of one's own has: a task's choices are `input.choices` here."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"\btask\.(?=(?:choices|chat)\b)", "input.", str(error))
        text = re.sub(r"\btask\.prompt\b", "input.template", text)
        raise UserError(re.sub(r"shorten the row(, or set task\.long_rows to \w+)?", "shorten it", text)) from None


def _record(field: str, text: str) -> Record:
    """Return a row of one column in which a template's field reads a text; `a[0]` is a value inside the column `a`."""
    column, *keys = field.replace("]", "").split("[")
    value: Any = text
    for key in reversed(keys):
        value = {key: value}
    return {column: value}


def task_of_texts(config: InputConfig, settings: dict[str, Any]) -> Task:
    """Return a task whose three splits hold the texts; its targets are placeholders, empty if there are no choices.

    Args:
        config: the texts and how to format them.
        settings: those of the run that trained the adapter; empty where they are not known.

    Raises:
        UserError: no text, or one that is not UTF-8; half a character in a choice; a template with several columns.
    """
    texts = config.text or lines_of_input()
    if not texts:
        raise UserError("input.text: no text to try; give some, or write lines to standard input")
    before = settings.get("task", {})
    template = config.template or before.get("prompt") or "{text}"
    target = before.get("target") or " {answer}"
    with own_flags():
        check_template(template, target)
    columns = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if len(columns) != 1:
        named = ", ".join(sorted(columns)) or "none"
        raise UserError(f"input.template: expected one column to put a text into, found {named} in {template!r}")
    (column,) = columns
    listed = before.get("choices")
    known = list(listed.values()) if isinstance(listed, dict) else listed if isinstance(listed, list) else None
    choices = config.choices or known
    for text in [*(choices or ()), before.get("system") or ""]:
        check_characters(
            "the choices and the system message of the run" if not config.choices else "input.choices", text
        )
    rows = []
    for number, text in enumerate(texts, start=1):
        place = f"text {number}"
        record = _record(column, text)
        rows.append(Row(place, render(template, record, place), choices[0] if choices else "", record))
    task = TaskConfig(
        prompt=template,
        target=target,
        chat=before.get("chat", False) if config.chat is None else config.chat,
        system=before.get("system"),
        max_length=sys.maxsize,  # what the base model takes is enough: nothing is trained
    )
    return Task("tryout", dict.fromkeys(SPLITS, rows), tuple(choices) if choices else None, (), "yours", task)
