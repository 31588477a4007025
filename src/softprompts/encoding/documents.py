"""Data types for token ids: documents, examples, and the splits of a task."""

from __future__ import annotations

import copy
import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from softprompts.data.tables import BATCH, Lazy, Tables, Writer, columns_of
from softprompts.tasks.rows import texts_of
from softprompts.tasks.task import Row, Task

import numpy
import pyarrow
import pyarrow.compute


@dataclass(frozen=True)
class Document:
    """Token ids that a decoder reads as one text: the prompt, then the target. Neither is empty.

    An encoder-decoder reads the prompt and generates the target. For an encoder the target is the number of a choice.
    `soft_prompt` is the number of the soft prompt, in the engine's prompt bank, that precedes the document.
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    soft_prompt: int = 0

    @property
    def input_ids(self) -> tuple[int, ...]:
        """All tokens that the model reads. The last target token is only predicted."""
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

    `ends` are the token ids that end a prediction: the one at the end of training targets, and those of the base model.
    """

    task: Task
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    ends: tuple[int, ...] = ()


Targets = tuple[tuple[int, ...], ...]
_IDS = pyarrow.list_(pyarrow.int32())
# Open tasks store the target of each row. Tasks with choices store the number of a set that many rows share.
SCHEMA = pyarrow.schema(
    [("prompt_ids", _IDS), ("target_ids", _IDS), ("choices", pyarrow.int32()), ("answer", pyarrow.int32())]
)
CHOICES_SCHEMA = pyarrow.schema([("target_ids", pyarrow.list_(_IDS))])


class Answer(NamedTuple):
    """The place of a row, its target, and the target's token ids."""

    place: str
    target: str
    target_ids: tuple[int, ...]


class StoredExamples(Lazy[Example]):
    """The examples of a split: its rows, and a table of their token ids."""

    def __init__(self, rows: Sequence[Row], tables: Tables, split: str, choice_texts: tuple[str, ...]) -> None:
        """Read the examples that an `ExampleWriter` wrote to one of the tables."""
        super().__init__(len(rows))
        self.rows = rows
        self.choice_texts = choice_texts
        self.soft_prompts: Sequence[int] | None = None  # of each row of the whole split; None: the first for all
        self._table = tables.tables[split]
        self._sha256: str = tables.notes["sha256"][split]
        (column,) = tables.tables["choices"].to_pydict().values()
        self._choices: list[Targets] = [tuple(map(tuple, targets)) for targets in column]

    def _items(self, numbers: range) -> Iterator[Example]:
        rows = self.rows[numbers.start : numbers.stop] if numbers.step == 1 else (self.rows[n] for n in numbers)
        for number, row, found in zip(numbers, rows, columns_of(self._table, SCHEMA.names, numbers), strict=True):
            ids, target_ids, choices, answer = found
            prompt_ids, k = tuple(ids), 0 if self.soft_prompts is None else self.soft_prompts[number]
            if choices is None:
                yield Example(row, Document(prompt_ids, tuple(target_ids), k), (), ())
                continue
            documents = tuple(Document(prompt_ids, target, k) for target in self._choices[choices])
            yield Example(row, documents[answer], documents, self.choice_texts)

    def answers(self) -> Iterator[Answer]:
        """Yield only the targets of the rows, because the rest takes most of the time."""
        texts = texts_of(self.rows if self.span == self.whole else [self.rows[n] for n in self.span])
        for start in range(0, len(self.span), BATCH):
            numbers = self.span[start : start + BATCH]
            for found in columns_of(self._table, SCHEMA.names[1:], numbers):
                ids, choices, answer = found
                text = next(texts)
                yield Answer(text.place, text.target, tuple(ids) if choices is None else self._choices[choices][answer])

    def lengths(self, prompts_only: bool, longest_choice: bool) -> list[int]:
        """Return `lengths_of` these examples."""
        found = pyarrow.compute.list_value_length(self._table["prompt_ids"]).to_numpy()
        if not prompts_only and not self.choice_texts:
            found = found + pyarrow.compute.list_value_length(self._table["target_ids"]).to_numpy() - 1
        elif not prompts_only:
            of_targets = numpy.array([[len(ids) - 1 for ids in targets] for targets in self._choices])
            sets, answers = self._table["choices"].to_numpy(), self._table["answer"].to_numpy()
            found = found + (of_targets.max(axis=1)[sets] if longest_choice else of_targets[sets, answers])
        return [int(found[n]) for n in self.span]

    def moved(self, soft_prompts: Sequence[int]) -> StoredExamples:
        """Return the examples with other soft prompts, by number, one for each row of the whole split."""
        other = copy.copy(self)
        other.soft_prompts = soft_prompts
        return other

    @property
    def sha256(self) -> str | None:
        """Digest of the tokens, as `digest_of_tokens`; None if it has to be computed."""
        return self._sha256 if self.soft_prompts is None and self.span == self.whole else None


def answers_of(examples: Sequence[Example]) -> Iterator[Answer]:
    """Yield place, target and its token ids of each example."""
    if isinstance(examples, StoredExamples):
        return examples.answers()
    return (Answer(e.row.place, e.row.target, e.document.target_ids) for e in examples)


def lengths_of(examples: Sequence[Example], prompts_only: bool = False, *, longest_choice: bool = False) -> list[int]:
    """Return the number of tokens that the model reads of each example.

    Args:
        examples: rows as tokens.
        prompts_only: count only the prompt.
        longest_choice: count the longest choice instead of the target, because scoring reads every choice.
    """
    if isinstance(examples, StoredExamples):
        return examples.lengths(prompts_only, longest_choice)
    if prompts_only:
        return [len(e.document.prompt_ids) for e in examples]
    return [len((longest_document(e) if longest_choice else e.document).input_ids) for e in examples]


def longest_document(example: Example) -> Document:
    """Return the longest document of an example: that of its longest choice, if there are choices."""
    return max(example.choices or (example.document,), key=lambda document: len(document.target_ids))


def longest_example(data: EncodedTask, prompts_only: bool = False) -> tuple[int, Example]:
    """Return the example of all splits with the most tokens, by its longest choice, and their number."""
    splits = (data.train, data.validation, data.test)
    lengths = ((split, lengths_of(split, prompts_only, longest_choice=True)) for split in splits)
    found = ((length, split, i) for split, own in lengths for i, length in enumerate(own))
    length, split, i = max(found, key=lambda each: each[0])
    return length, split[i]


def digest_of_tokens(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of all token ids, and of the numbers of their soft prompts."""
    if isinstance(examples, StoredExamples) and examples.sha256:
        return examples.sha256
    digest = hashlib.sha256()
    for example in examples:
        for document in (example.document, *example.choices):
            digest.update(array("q", [document.soft_prompt]).tobytes())  # with several tasks, each has its own
            digest.update(_packed(document.prompt_ids) + _packed(document.target_ids))
    return digest.hexdigest()


def _packed(ids: Sequence[int]) -> bytes:
    return array("q", [len(ids), *ids]).tobytes()


@lru_cache(maxsize=1024)
def _packed_targets(targets: Targets) -> list[bytes]:
    return [_packed(ids) for ids in targets]


class ChoiceWriter:
    """Write the token ids of choices, once for all rows that share them."""

    def __init__(self, writer: Writer) -> None:
        """Write to a table of `CHOICES_SCHEMA`."""
        self.writer = writer
        self.numbers: dict[Targets, int] = {}

    def close(self) -> None:
        """Write the choices."""
        self.writer.write([list(map(list, targets)) for targets in self.numbers])


class ExampleWriter:
    """Write the token ids of one split."""

    def __init__(self, writer: Writer, choices: ChoiceWriter) -> None:
        """Write to a table of `SCHEMA`, and the choices to another table."""
        self.writer, self.choices = writer, choices
        self.digest = hashlib.sha256()

    def write(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Targets], answers: Sequence[int | None]
    ) -> None:
        """Append rows.

        Args:
            prompts: token ids of the prompts.
            targets: token ids of each choice, or of the only target.
            answers: numbers of the choices that are the targets; None if there are no choices.
        """
        flat = pyarrow.array(numpy.fromiter(chain.from_iterable(prompts), "i4"))
        ends = numpy.cumsum([0, *map(len, prompts)], dtype="i4")
        columns: list[Any] = [pyarrow.ListArray.from_arrays(ends, flat), [], [], list(answers)]
        content = []
        for prompt_ids, documents, answer in zip(prompts, targets, answers, strict=True):
            number = None if answer is None else self.choices.numbers.setdefault(documents, len(self.choices.numbers))
            columns[1].append(documents[0] if answer is None else None)
            columns[2].append(number)
            head = bytes(8) + _packed(prompt_ids)  # of soft prompt 0
            packed = _packed_targets(documents)
            content += [head + ids for ids in (packed if answer is None else (packed[answer], *packed))]
        self.digest.update(b"".join(content))
        self.writer.write(*columns)


def with_soft_prompt(data: EncodedTask, soft_prompt: int) -> EncodedTask:
    """Return the task with soft prompt number `soft_prompt` of the prompt bank before every document."""
    return with_soft_prompts(data, lambda _: soft_prompt)


def with_soft_prompts(data: EncodedTask, number: Callable[[Example], int]) -> EncodedTask:
    """Return the task with soft prompt `number(example)` of the prompt bank before each example's documents."""

    def moved(examples: Sequence[Example]) -> Sequence[Example]:
        if isinstance(examples, StoredExamples) and examples.span == examples.whole:
            return examples.moved(array("H", map(number, examples)))
        return [_moved(example, number(example)) for example in examples]

    return EncodedTask(data.task, moved(data.train), moved(data.validation), moved(data.test), data.ends)


def _moved(example: Example, k: int) -> Example:
    document = replace(example.document, soft_prompt=k)
    return replace(example, document=document, choices=tuple(replace(d, soft_prompt=k) for d in example.choices))
