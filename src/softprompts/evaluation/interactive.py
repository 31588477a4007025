"""Make a task from a user's texts, with the prompt template of the run that trained the adapter."""

from __future__ import annotations

import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from softprompts.config.sections import EvaluationConfig, TaskConfig
from softprompts.config.tools import InputConfig, SamplingConfig
from softprompts.data.sources import SPLITS
from softprompts.data.values import Record
from softprompts.encoding.documents import Example
from softprompts.encoding.row_tokens import RowTooLongError
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.errors import UserError, settings_named
from softprompts.evaluation.predict import choice_scores
from softprompts.system.streams import lines_of_input
from softprompts.tasks.task import Task
from softprompts.tasks.templates import Row, check_characters, check_template, render

import torch

BATCH = EvaluationConfig.batch_size  # texts per forward pass; standard input may have thousands of lines
OWN_KEYS = {"task.choices": "input.choices", "task.chat": "input.chat", "task.prompt": "input.template"}
MOST = 64  # tokens of a prediction if neither the user nor a run limits them


def check_sampling(sampling: SamplingConfig, task: Task) -> None:
    """Raise `UserError` if settings of the sampling are given for a task whose choices are scored."""
    given = next((f.name for f in fields(sampling) if getattr(sampling, f.name) != f.default), None)
    if given and task.choices:
        raise UserError(
            f"sampling.{given}: applies only to generated predictions, but the {len(task.choices)} choices are scored; "
            "set input.choices to [] to generate"
        )


def answer(
    engine: Engine, examples: Sequence[Example], sampling: SamplingConfig, settings: Mapping[str, Any]
) -> list[str]:
    """Return each example's likeliest choice and its probability among the choices, or the generated text.

    Args:
        engine: the model.
        examples: the texts.
        sampling: the generation.
        settings: the settings of the run that trained the adapter, empty if unknown. A generated text ends as in its
            evaluation, by the stop texts and, unless `sampling` has another, by the greatest length.
    """
    torch.manual_seed(sampling.seed)
    batches = (examples[start : start + BATCH] for start in range(0, len(examples), BATCH))
    return [text for batch in batches for text in _answer(engine, batch, sampling, settings)]


def _answer(
    engine: Engine, examples: Sequence[Example], sampling: SamplingConfig, settings: Mapping[str, Any]
) -> list[str]:
    if examples[0].choices:
        with torch.inference_mode():
            scores = torch.tensor(choice_scores(engine, examples)).softmax(-1)
        if scores.isnan().any():
            raise UserError(
                "the model's scores are not finite, so predictions are meaningless; try model.dtype float32"
            )
        best = [(row.max().item(), int(row.argmax())) for row in scores]
        return [f"{e.choice_texts[i].strip()} ({p:.0%})" for e, (p, i) in zip(examples, best, strict=True)]
    drawn: dict[str, Any] = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    documents = [e.document for e in examples]
    evaluation = settings.get("evaluation", {})
    return generate(
        engine,
        [d.prompt_ids for d in documents],
        sampling.max_new_tokens or evaluation.get("max_new_tokens") or MOST,
        stop=evaluation.get("stop") or (),
        soft_prompts=[d.soft_prompt for d in documents],
        **(drawn if sampling.temperature else {}),
    )


@contextmanager
def own_flags() -> Iterator[None]:
    """Within this context, errors name the settings of a user's texts, such as `input.choices` for task.choices."""
    with settings_named(OWN_KEYS):
        try:
            yield
        except RowTooLongError as error:
            raise UserError(f"{error.facts}; the base model has no more positions, so shorten the text") from None


def record_of(field: str, text: str) -> Record:
    """Return a row in which a template's field has a text as its value; `a[0]` is a value inside the column `a`."""
    column, *keys = field.replace("]", "").split("[")
    value: Any = text
    for key in reversed(keys):
        value = {key: value}
    return {column: value}


def as_target(choice: str, target: str) -> str:
    """Return a choice with the white space that a run's target template puts before a word."""
    space = target[: len(target) - len(target.lstrip())]
    return choice if choice[:1].isspace() else space + choice


def choices_of_run(settings: Mapping[str, Any]) -> list[str] | None:
    """Return the choices in a run's settings; None if it generates, or if the settings do not list them."""
    named = settings.get("task", {}).get("choices")
    words = list(dict.fromkeys(named.values())) if isinstance(named, dict) else named  # labels may share a word
    return words if isinstance(words, list) else None


def task_of_texts(config: InputConfig, settings: dict[str, Any]) -> Task:
    """Return a task with the texts as each split. Its targets are placeholders, empty if there are no choices.

    A user's choices get the space of the run's target template, so that their tokens are those of training.

    Args:
        config: the texts and how to format them.
        settings: the settings of the run that trained the adapter; empty if unknown.

    Raises:
        UserError: there is no text, or one is not valid UTF-8; the template has several columns.
    """
    texts = config.text or lines_of_input()
    if not texts:
        raise UserError("input.text: expected a text; set it, or write lines to standard input")
    before = settings.get("task", {})
    template = config.template or before.get("prompt") or "{text}"
    target = before.get("target") or " {answer}"
    with own_flags():
        check_template(template, target)
    columns = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if len(columns) != 1:
        named = ", ".join(sorted(columns)) or "none"
        raise UserError(f"input.template: expected exactly one column for the text, found {named} in {template!r}")
    (column,) = columns
    choices, origin = choices_of_run(settings), "the choices and the system message of the run"
    if config.choices is not None:
        choices = [as_target(choice, before.get("target") or "") for choice in config.choices]
        origin = "input.choices"
    for text in [*(choices or ()), before.get("system") or ""]:
        check_characters(origin, text)
    rows = []
    for number, text in enumerate(texts, start=1):
        place = f"text {number}"
        record = record_of(column, text)
        rows.append(Row(place, render(template, record, place), choices[0] if choices else "", record))
    task = TaskConfig(
        prompt=template,
        target=target,
        chat=before.get("chat", False) if config.chat is None else config.chat,
        system=before.get("system"),
        max_length=sys.maxsize,  # the base model's own limit is enough without training
    )
    return Task("tryout", dict.fromkeys(SPLITS, rows), tuple(choices) if choices else None, (), "yours", task)
