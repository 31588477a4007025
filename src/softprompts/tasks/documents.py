"""Texts as token ids: documents, the examples made of them, and the splits of a task."""

from __future__ import annotations

from dataclasses import dataclass

from softprompts.tasks.task import Row, Task


@dataclass(frozen=True)
class Document:
    """Token ids that a decoder reads as one text: prompt, then target. Both are non-empty.

    An encoder-decoder reads the prompt and writes the target; for an encoder the target is the number of a choice.
    `soft_prompt` says behind which soft prompt of the engine's bank it stands.
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    soft_prompt: int = 0

    @property
    def input_ids(self) -> tuple[int, ...]:
        """All tokens that go through the model: the last target token is predicted, never read."""
        return self.prompt_ids + self.target_ids[:-1]


@dataclass(frozen=True)
class Example:
    """A tokenized row. `choices` holds one document for each of `choice_texts`; both are empty for open tasks."""

    row: Row
    document: Document
    choices: tuple[Document, ...]
    choice_texts: tuple[str, ...]


@dataclass(frozen=True)
class EncodedTask:
    """A task and the tokenized rows of its splits, in the order of the task's rows.

    `ends` are the token ids that end an answer: the one that written targets are trained to end with, and the base
    model's own.
    """

    task: Task
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    ends: tuple[int, ...] = ()
