"""Turn rows into token ids, as the kind of base model reads them: a target is never truncated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

from softprompts.errors import UserError
from softprompts.models.loading import InputSpec
from softprompts.tasks.chats import in_chat
from softprompts.tasks.documents import Document, EncodedTask, Example
from softprompts.tasks.targets import warn_of_lost_targets
from softprompts.tasks.task import Row, Task

from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class RowTooLongError(UserError):
    """A row has more tokens than fit. `facts` says so without the advice, which a caller may give in other words."""

    def __init__(self, facts: str, advice: str = "") -> None:
        super().__init__(f"{facts}; {advice}" if advice else facts)
        self.facts = facts


def encode(
    task: Task, tokenizer: PreTrainedTokenizerBase, spec: InputSpec | None = None, needs_end: bool = True
) -> EncodedTask:
    """Tokenize a task.

    A choice is scored by the likelihood of its tokens. If the tokens of one begin with those of another, as "Java" and
    "JavaScript" do, the shorter would always be as likely or likelier: then every choice gets the token that ends an
    answer, in training and in scoring. Other choices get none: nothing is gained by it (docs/lab-log.md).

    Args:
        task: the rows; `task.config` says what becomes of long ones, and whether they are chats.
        tokenizer: the base model's. Written targets get the token that ends an answer, so that generation learns to
            stop.
        spec: what the base model can read; by default a decoder without limits.
        needs_end: whether written targets have to have an end; without it, answers run to their greatest length.

    Raises:
        UserError: a target that tokenizes to nothing; a row longer than `task.max_length` or the model's room; a chat
            whose template `in_chat` refuses; token ids that the base model
            has no embedding of; choices that are the same tokens; a tokenizer without an end that is needed.
    """
    spec = spec or InputSpec()
    end = _end_of_answer(task, tokenizer)
    written = task.choices is None and spec.kind != "encoder"
    if written and end is None and needs_end:
        raise _endless(tokenizer, "a written answer would never end")
    reader = _Reader(task, tokenizer, spec, (end,) if written and end is not None else ())
    splits = reader.splits()
    if task.choices and spec.kind != "encoder" and (pair := _nested(splits)):
        if end is None:
            raise _endless(tokenizer, f"choice {pair[0]!r} begins choice {pair[1]!r}, and needs an end")
        splits = replace(reader, ending=(end,), separator=_separator(task, spec)).splits()
        if pair := _nested(splits):
            raise UserError(f"task.choices: {pair[1]!r} holds what ends {pair[0]!r}; the two cannot be told apart")
    data = EncodedTask(task, **splits, ends=tuple(dict.fromkeys([*([] if end is None else [end]), *spec.ends])))
    if written:
        warn_of_lost_targets(data, tokenizer)
    return data


def _endless(tokenizer: PreTrainedTokenizerBase, why: str) -> UserError:
    name = tokenizer.name_or_path
    return UserError(
        f"model.name_or_path: the tokenizer of {name} has no end-of-sequence token (eos_token): {why}; "
        "name one in its tokenizer_config.json"
    )


def _nested(splits: dict[str, list[Example]]) -> tuple[str, str] | None:
    """Return two choices of which one's tokens begin the other's, in any row; None if there are none.

    Raises:
        UserError: two choices are the same tokens.
    """
    found = None
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for example in chain(*splits.values()):
        ids = tuple(document.target_ids for document in example.choices)
        if ids in seen:
            continue
        seen.add(ids)
        # Sorted, a sequence comes right before those that it begins.
        for (first, a), (second, b) in pairwise(sorted(zip(ids, example.choice_texts, strict=True))):
            if first == second:
                raise UserError(
                    f"task.choices: {a!r} and {b!r} are the same tokens to this tokenizer ({example.row.place}): "
                    "nothing can tell them apart; give one of them other words"
                )
            found = found or ((a, b) if second[: len(first)] == first else None)
    return found


def _end_of_answer(task: Task, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that ends an answer: what a chat template puts there, else the end of the sequence.

    BERT's tokenizers call theirs a separator. None if there is neither.
    """
    usual = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if task.config.chat:
        after = in_chat(task, tokenizer, "?", "ANSWER").rpartition("ANSWER")[2]
        ids = tokenizer(after, add_special_tokens=False).input_ids
        # Some are special without a name among the tokenizer's own: Gemma's <end_of_turn>, say.
        added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        marks = added.union(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # which may stand for any text
        return next((i for i in ids if i in marks), usual)
    return usual


def _separator(task: Task, spec: InputSpec) -> str:
    """Return what ends the choices of solved examples in the prompt; none if an answer stands apart from its prompt."""
    return "" if task.config.chat or spec.kind == "encoder-decoder" else task.separator


@dataclass(frozen=True)
class _Reader:
    """Makes examples of rows. `ending` holds the tokens behind each target: one, or none.

    If the prompts hold solved examples, `separator` ends a target instead, as it ends those of the examples.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    spec: InputSpec
    ending: tuple[int, ...]
    separator: str = ""

    def splits(self) -> dict[str, list[Example]]:
        return {name: [self.example(r) for r in rows] for name, rows in self.task.splits.items()}

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
        self._check_known(row, prompt_ids)
        if self.spec.kind == "encoder":
            return [Document(prompt_ids, (number,)) for number in range(len(targets))]
        answers = []
        for target in targets:
            # A text of one's own has no target to read: a token that the model knows stands for it.
            known = target or self.task.choices
            answers.append(tuple(self._target_ids(text, prompt_ids, target)) if known else prompt_ids[-1:])
            if not answers[-1]:
                raise UserError(f"{row.place}: the target {target!r} tokenizes to nothing")
        ending = self._behind_solved(text, prompt_ids, dict(zip(targets, answers, strict=True)))
        self._check_known(row, [*chain(*answers), *ending])
        return [Document(prompt_ids, answer + ending) for answer in answers]

    def _behind_solved(
        self, text: str, prompt_ids: tuple[int, ...], answers: dict[str, tuple[int, ...]]
    ) -> tuple[int, ...]:
        """Return what ends a row's targets: behind solved examples, the token that would follow if it were one of them.

        What stands behind a separator decides on its tokens, too: of two line breaks at the end of a text, many
        tokenizers make one token, and two of those between texts.
        """
        if not self.separator:
            return self.ending
        for target, answer in answers.items():
            ids = prompt_ids + answer
            whole = tuple(self._prompt_ids(text + target + self.separator + text))
            if whole[: len(ids)] == ids:
                return whole[len(ids) : len(ids) + 1]
        apart: list[int] = self.tokenizer(self.separator, add_special_tokens=False).input_ids
        return tuple(apart[:1]) or self.ending

    def _check_known(self, row: Row, ids: Sequence[int]) -> None:
        vocabulary = self.spec.vocabulary
        if vocabulary is not None and max(ids) >= vocabulary:
            raise UserError(
                f"{row.place}: token {self.tokenizer.convert_ids_to_tokens(max(ids))!r} has the number {max(ids)}, and "
                f"the base model has embeddings of {vocabulary} tokens only: take the tokenizer that belongs to it, "
                "or resize the model"
            )

    def _prompt_ids(self, text: str) -> list[int]:
        if self.task.config.chat:  # the template has written its special tokens out
            return self.tokenizer(text, add_special_tokens=False).input_ids
        return _open_ids(text, self.tokenizer) if self.spec.kind == "decoder" else self.tokenizer(text).input_ids

    def _target_ids(self, text: str, prompt_ids: tuple[int, ...], target: str) -> Sequence[int]:
        # An answer that stands alone, in a decoder of its own or in a message, does not begin with a space.
        alone = self.spec.kind == "encoder-decoder" or self.task.config.chat
        own: list[int] = self.tokenizer(target.strip() if alone else target, add_special_tokens=False).input_ids
        if self.spec.kind == "encoder-decoder":
            return own
        # The target as it continues this prompt: tokenizers of the SentencePiece kind put a space of their own in front
        # of a text that stands alone. Where the two fuse into other tokens, they are tokenized apart.
        whole = self._prompt_ids(text + (target.strip() if alone else target))
        return own if tuple(whole[: len(prompt_ids)]) != prompt_ids else whole[len(prompt_ids) :]

    def _fit(self, row: Row, targets: Sequence[str]) -> list[Document]:
        """Return the documents of one row, their common prompt cut alike if they are too long and may be cut."""
        documents = self._documents(row, row.prompt, targets)
        config = self.task.config
        limit = config.max_length if self.spec.room is None else min(config.max_length, self.spec.room)
        longest = max(documents, key=self._length)
        excess = self._length(longest) - limit
        if excess <= 0:
            return documents
        # Whatever stands in front of a text is there in every one: the model has never read one without.
        first = (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id)
        kept = 1 if longest.prompt_ids[0] in first else 0
        # What a tokenizer puts behind every text of an encoder stays as well.
        closing = self._closing(row.prompt)
        own = len(longest.prompt_ids) - kept - closing
        if config.chat:
            own = len(self.tokenizer(row.prompt, add_special_tokens=False).input_ids)
        possible = own - excess >= 1
        if not possible or config.long_rows != "cut_prompt":
            advice = "raise task.max_length" if limit == config.max_length else "the base model takes no more"
            target = "" if self.spec.kind == "encoder" else f" ({len(longest.target_ids)} of them target)"
            raise RowTooLongError(
                f"{row.place}: {self._length(longest)} tokens{target} do not fit into {limit}",
                f"{advice}, shorten the row" + (", or set task.long_rows to cut_prompt" if possible else ""),
            )
        if config.chat:  # the template stays whole, the message loses its beginning
            return self._cut_message(row, targets, excess, limit)
        return [replace(d, prompt_ids=d.prompt_ids[:kept] + d.prompt_ids[kept + excess :]) for d in documents]

    def _length(self, document: Document) -> int:
        # The target of an encoder is the number of an output.
        return len(document.prompt_ids) + (0 if self.spec.kind == "encoder" else len(document.target_ids))

    def _closing(self, text: str) -> int:
        """Return how many tokens the tokenizer puts behind a text that stands alone."""
        return 0 if self.spec.kind == "decoder" else _added(text, self.tokenizer)[1]

    def _cut_message(self, row: Row, targets: Sequence[str], excess: int, limit: int) -> list[Document]:
        """Return the documents of a message without its beginning, as short a one as makes them fit.

        Cut text makes other tokens than those that were left of it, at times as many as before. Every turn takes a
        character off at least.
        """
        message = row.prompt
        while message and excess > 0:
            message = message[self._end_of_tokens(message, excess) :]
            documents = self._documents(row, message, targets)
            excess = max(map(self._length, documents)) - limit
        if not message.strip():
            raise UserError(f"{row.place}: nothing of the prompt would be left of {limit} tokens; shorten the row")
        return documents

    def _end_of_tokens(self, text: str, count: int) -> int:
        """Return where in a text its first `count` tokens end, in characters; at least 1."""
        if not self.tokenizer.is_fast:
            share = count / max(1, len(self.tokenizer(text, add_special_tokens=False).input_ids))
            return max(1, math.floor(len(text) * share))
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        return max(1, offsets[count][0] if count < len(offsets) else len(text))


def _added(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return how many tokens the tokenizer puts in front of and behind a text of its own."""
    ids, own = tokenizer(text).input_ids, tokenizer(text, add_special_tokens=False).input_ids
    front = next((i for i in range(len(ids) - len(own) + 1) if ids[i : i + len(own)] == own), None)
    return (0, 0) if front is None else (front, len(ids) - front - len(own))


def _open_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenize a text that goes on: without what some tokenizers put behind every text, an end or a separator."""
    ids: list[int] = tokenizer(text).input_ids
    return ids[: len(ids) - _added(text, tokenizer)[1]]


def behind(data: EncodedTask, soft_prompt: int) -> EncodedTask:
    """Return the task with its documents behind another soft prompt of the bank."""
    return moved_behind(data, lambda _: soft_prompt)


def moved_behind(data: EncodedTask, number: Callable[[Example], int]) -> EncodedTask:
    """Return the task with the documents of each example behind the soft prompt of that number."""

    def moved(example: Example) -> Example:
        k = number(example)
        document = replace(example.document, soft_prompt=k)
        return replace(example, document=document, choices=tuple(replace(d, soft_prompt=k) for d in example.choices))

    train, validation, test = ([moved(e) for e in split] for split in (data.train, data.validation, data.test))
    return EncodedTask(data.task, train, validation, test, data.ends)
