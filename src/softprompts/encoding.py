"""Turn rows into token ids, as the kind of base model reads them: a target is never truncated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from softprompts.batching import Document
from softprompts.errors import UserError
from softprompts.models import Kind
from softprompts.tasks import Row, Task

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Example:
    """A tokenized row. `choices` holds one document for each of `choice_texts`; both are empty for open tasks."""

    row: Row
    document: Document
    choices: tuple[Document, ...]
    choice_texts: tuple[str, ...]


@dataclass(frozen=True)
class EncodedTask:
    """A task and the tokenized rows of its splits, in the order of the task's rows."""

    task: Task
    train: list[Example]
    validation: list[Example]
    test: list[Example]


def encode(task: Task, tokenizer: PreTrainedTokenizerBase, room: int | None, kind: Kind = "decoder") -> EncodedTask:
    """Tokenize a task.

    Args:
        task: where the rows come from; `task.config` says what becomes of long ones, and whether they are chats.
        tokenizer: the base model's. Open targets get the token that ends an answer, so that generation learns to stop.
        room: tokens that the base model has left beside the virtual tokens; None where it has no limit.
        kind: what kind of model reads them.

    Raises:
        UserError: a target that tokenizes to nothing; a row longer than `task.max_length` or `room`; a chat without a
            chat template, or with a system message that the template refuses.
    """
    reader = _Reader(task, tokenizer, room, kind, _end_of_answer(task, tokenizer))
    return EncodedTask(task, **{name: [reader.example(r) for r in rows] for name, rows in task.splits.items()})


def in_chat(task: Task, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str | None = None) -> str:
    """Return a prompt as the chat template shows it to the model: up to where it answers, or with its answer.

    Raises:
        UserError: the tokenizer has no chat template, or its template takes no system message.
    """
    if not tokenizer.chat_template:
        raise UserError(f"task.chat: the tokenizer of {tokenizer.name_or_path} has no chat template")
    messages = [{"role": "system", "content": task.config.system}] if task.config.system else []
    messages.append({"role": "user", "content": prompt})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
    except TemplateError as error:
        raise UserError(f"task.system: the chat template of {tokenizer.name_or_path} refuses it: {error}") from None
    assert isinstance(text, str)
    return text


def _end_of_answer(task: Task, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends an answer: what a chat template puts there, else the end of the sequence."""
    if task.config.chat:
        after = in_chat(task, tokenizer, "?", "ANSWER").rpartition("ANSWER")[2]
        ids = tokenizer(after, add_special_tokens=False).input_ids
        return next((i for i in ids if i in tokenizer.all_special_ids), tokenizer.eos_token_id)
    return tokenizer.eos_token_id


@dataclass(frozen=True)
class _Reader:
    """Makes examples of rows. `end` is the token behind an open answer."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    room: int | None
    kind: Kind
    end: int

    def example(self, row: Row) -> Example:
        choices = self.task.choices
        documents = self._fit(row, choices or (row.target,))
        if choices is None:
            return Example(row, documents[0], (), ())
        return Example(row, documents[choices.index(row.target)], tuple(documents), choices)

    def _documents(self, row: Row, prompt: str, targets: Sequence[str]) -> list[Document]:
        """Return the prompt with each of the targets behind it."""
        text = in_chat(self.task, self.tokenizer, prompt) if self.task.config.chat else prompt
        prompt_ids = tuple(self._prompt_ids(text))
        if not prompt_ids:
            raise UserError(f"{row.place}: the prompt tokenizes to nothing")
        if self.kind == "encoder":
            return [Document(prompt_ids, (number,)) for number in range(len(targets))]
        documents = []
        for target in targets:
            target_ids = self._target_ids(text, prompt_ids, target)
            if not target_ids:
                raise UserError(f"{row.place}: the target {target!r} tokenizes to nothing")
            documents.append(Document(prompt_ids, (*target_ids, *([] if self.task.choices else [self.end]))))
        return documents

    def _prompt_ids(self, text: str) -> list[int]:
        if self.task.config.chat:  # the template has written its special tokens out
            return self.tokenizer(text, add_special_tokens=False).input_ids
        return _open_ids(text, self.tokenizer) if self.kind == "decoder" else self.tokenizer(text).input_ids

    def _target_ids(self, text: str, prompt_ids: tuple[int, ...], target: str) -> Sequence[int]:
        # An answer that stands alone, in a decoder of its own or in a message, does not begin with a space.
        alone = self.kind == "encoder-decoder" or self.task.config.chat
        own: list[int] = self.tokenizer(target.strip() if alone else target, add_special_tokens=False).input_ids
        if self.kind == "encoder-decoder":
            return own
        # The target as it continues this prompt: tokenizers of the SentencePiece kind put a space of their own in front
        # of a text that stands alone. Where the two fuse into other tokens, they are tokenized apart.
        whole = self._prompt_ids(text + (target.strip() if alone else target))
        return own if tuple(whole[: len(prompt_ids)]) != prompt_ids else whole[len(prompt_ids) :]

    def _fit(self, row: Row, targets: Sequence[str]) -> list[Document]:
        """Return the documents of one row, their common prompt cut alike where they are too long and may be cut."""
        documents = self._documents(row, row.prompt, targets)
        limit = self.task.config.max_length if self.room is None else min(self.task.config.max_length, self.room)
        longest = max(documents, key=lambda d: len(d.prompt_ids) + len(d.target_ids))
        length, target = len(longest.prompt_ids) + len(longest.target_ids), len(longest.target_ids)
        if length <= limit:
            return documents
        cut = length - limit
        # Whatever stands in front of a text is there in every one: the model has never read one without.
        first = (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id)
        kept = 1 if longest.prompt_ids[0] in first else 0
        own = len(longest.prompt_ids) - kept
        if self.task.config.chat:
            message = self.tokenizer(row.prompt, add_special_tokens=False).input_ids
            own = len(message)
        possible = own - cut >= 1
        if not possible or self.task.config.long_rows != "cut_prompt":
            advice = "raise task.max_length" if limit == self.task.config.max_length else "the base model takes no more"
            raise UserError(
                f"{row.place}: {length} tokens ({target} of them target) do not fit into {limit}; "
                f"{advice}, shorten the row" + (", or set task.long_rows to cut_prompt" if possible else "")
            )
        if self.task.config.chat:  # the template stays whole, the message loses its beginning
            # A cut through a character leaves its other bytes, which make more tokens than they were.
            rest = str(self.tokenizer.decode(message[cut:])).lstrip("\N{REPLACEMENT CHARACTER}")
            return self._fit(replace(row, prompt=rest or row.prompt[1:]), targets)
        return [replace(d, prompt_ids=d.prompt_ids[:kept] + d.prompt_ids[kept + cut :]) for d in documents]


def _open_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenize a text that goes on: without the end-of-sequence token that some tokenizers add to every text."""
    ids: list[int] = tokenizer(text).input_ids
    if ids and ids[-1] == tokenizer.eos_token_id:
        own = tokenizer(text, add_special_tokens=False).input_ids
        return ids if own and own[-1] == tokenizer.eos_token_id else ids[:-1]
    return ids


def behind(data: EncodedTask, soft_prompt: int) -> EncodedTask:
    """Return the task with its documents behind another soft prompt of the bank."""
    return moved_behind(data, lambda _: soft_prompt)


def moved_behind(data: EncodedTask, number: Callable[[Example], int]) -> EncodedTask:
    """Return the task with the documents of each example behind the soft prompt of that number."""

    def moved(example: Example) -> Example:
        k = number(example)
        document = replace(example.document, soft_prompt=k)
        return replace(example, document=document, choices=tuple(replace(d, soft_prompt=k) for d in example.choices))

    splits = ([moved(e) for e in split] for split in (data.train, data.validation, data.test))
    return EncodedTask(data.task, *splits)
