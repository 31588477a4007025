"""Turn rows into token ids, as the kind of base model reads them: a target is never truncated."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice, pairwise
from typing import Any

from softprompts.data.tables import BATCH, Writer, key_of, make_tables
from softprompts.errors import UserError, warn
from softprompts.models.loading import InputSpec
from softprompts.models.settings import tokenizer_digests
from softprompts.tasks.chats import in_chat
from softprompts.tasks.documents import (
    CHOICES_SCHEMA,
    SCHEMA,
    ChoiceWriter,
    EncodedTask,
    Example,
    ExampleWriter,
    StoredExamples,
    Targets,
)
from softprompts.tasks.encoder import Encoder
from softprompts.tasks.rows import Text, key_of_rows, texts_of
from softprompts.tasks.targets import lost_targets
from softprompts.tasks.task import Task

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

SAMPLED = 8  # rows of each split that show whether a tokenizer gives the same ids for many texts at a time
_Ids = tuple[list[int], Targets]  # of a prompt, and of each target


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
    encoder = Encoder(tokenizer, _sample(task))
    ends = tuple(dict.fromkeys([*([] if end is None else [end]), *spec.ends]))
    reader = _Reader(task, tokenizer, encoder, spec, (end,) if written and end is not None else ())
    keys = [key_of_rows(rows) for rows in task.splits.values()]
    key = None
    if encoder.is_batched and all(keys):
        settings = {name: getattr(task.config, name) for name in ("chat", "system", "max_length", "long_rows")}
        kind = [type(tokenizer).__qualname__, tokenizer_digests(tokenizer)]
        key = key_of("tokens", keys, kind, asdict(spec), needs_end, task.choices, task.separator, settings)
    schemas = dict.fromkeys(task.splits, SCHEMA) | {"choices": CHOICES_SCHEMA}
    try:
        tables = make_tables(key, schemas, reader.write)
    except _NestedError as nested:
        first, second = nested.pair
        if end is None:
            raise _endless(tokenizer, f"choice {first!r} begins choice {second!r}, and needs an end") from None
        reader = replace(reader, ending=(end,), separator=_separator(task, spec))
        try:
            tables = make_tables(key and f"{key}-ended", schemas, reader.write)
        except _NestedError as still:
            first, second = still.pair
            raise UserError(
                f"task.choices: {second!r} holds what ends {first!r}; the two cannot be told apart"
            ) from None
    splits = {name: StoredExamples(rows, tables, name, task.choices or ()) for name, rows in task.splits.items()}
    data = EncodedTask(task, **splits, ends=ends)
    if written:
        lost = make_tables(key and key_of("lost", key, ends), {}, lambda _: lost_targets(data, tokenizer))
        for text in lost.notes:
            warn(text)
    return data


def _endless(tokenizer: PreTrainedTokenizerBase, why: str) -> UserError:
    name = tokenizer.name_or_path
    return UserError(
        f"model.name_or_path: the tokenizer of {name} has no end-of-sequence token (eos_token): {why}; "
        "name one in its tokenizer_config.json"
    )


class _NestedError(Exception):
    """The tokens of one choice begin those of another."""

    def __init__(self, pair: tuple[str, str]) -> None:
        super().__init__(pair)
        self.pair = pair


def _nested(choices: Sequence[str], ids: Targets, place: str) -> tuple[str, str] | None:
    """Return two choices of which one's tokens begin the other's; None if there are none.

    Raises:
        UserError: two choices are the same tokens.
    """
    found = None
    # Sorted, a sequence comes right before those that it begins.
    for (first, a), (second, b) in pairwise(sorted(zip(ids, choices, strict=True))):
        if first == second:
            raise UserError(
                f"task.choices: {a!r} and {b!r} are the same tokens to this tokenizer ({place}): "
                "nothing can tell them apart; give one of them other words"
            )
        found = found or ((a, b) if second[: len(first)] == first else None)
    return found


def _sample(task: Task) -> list[str]:
    """Return texts of some rows, evenly spread over each split: prompts, and prompts with their targets."""
    texts = []
    for rows in task.splits.values():
        for n in range(0, len(rows), max(1, len(rows) // SAMPLED)):
            texts += [rows[n].prompt, rows[n].prompt + rows[n].target]
    return texts


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
    """Makes token ids of rows. `ending` holds the tokens behind each target: one, or none.

    If the prompts hold solved examples, `separator` ends a target instead, as it ends those of the examples.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    spec: InputSpec
    ending: tuple[int, ...]
    separator: str = ""

    def write(self, writers: dict[str, Writer]) -> dict[str, Any]:
        """Write the tokens of all rows, and return the digest of each split."""
        choices = self.task.choices
        numbers = {choice: number for number, choice in enumerate(choices or ())}
        targets = ChoiceWriter(writers["choices"])
        digests = {}
        for name, rows in self.task.splits.items():
            examples = ExampleWriter(writers[name], targets)
            texts = texts_of(rows)
            while batch := list(islice(texts, BATCH)):
                read = self._read(batch)
                for text, (_, ids) in zip(batch, read, strict=True):
                    if choices is None or self.spec.kind == "encoder" or ids in targets.numbers:
                        continue
                    if pair := _nested(choices, ids, text.place):
                        raise _NestedError(pair)
                    targets.numbers[ids] = len(targets.numbers)
                answers = [numbers[text.target] if choices else None for text in batch]
                examples.write([ids for ids, _ in read], [ids for _, ids in read], answers)
            digests[name] = examples.digest.hexdigest()
        targets.close()
        return {"sha256": digests}

    def _read(self, rows: Sequence[Text]) -> list[_Ids]:
        """Return the token ids of rows; of several that are refused, the first is named."""
        try:
            given = [self.task.choices or (row.target,) for row in rows]
            read = self._tokens(rows, [row.prompt for row in rows], given)
            return [self._fit(*each) for each in zip(rows, given, read, strict=True)]
        except UserError:
            for row in rows if len(rows) > 1 else ():
                self._read([row])
            raise

    def _tokens(self, rows: Sequence[Text], prompts: Sequence[str], given: Sequence[Sequence[str]]) -> list[_Ids]:
        """Return for each row the ids of a prompt, and those of each of the given targets behind it."""
        texts = [in_chat(self.task, self.tokenizer, p) for p in prompts] if self.task.config.chat else prompts
        prompt_ids = self._prompt_ids(texts)
        for row, ids in zip(rows, prompt_ids, strict=True):
            if not ids:
                raise UserError(f"{row.place}: the prompt tokenizes to nothing")
            self._check_known(row, ids)
        if self.spec.kind == "encoder":
            return [(ids, tuple((n,) for n in range(len(t)))) for ids, t in zip(prompt_ids, given, strict=True)]
        if not self.encoder.is_in_pieces or self.separator or not self.task.choices:
            return list(zip(prompt_ids, self._targets(rows, texts, prompt_ids, given), strict=True))
        # The last piece of a prompt decides alone on the tokens of the choices, and many prompts end alike.
        tails = [self.encoder.tail(text) for text in texts]
        first = {tail: n for n, tail in reversed(list(enumerate(tails)))}
        numbers = sorted(first.values())
        behind = self._targets(
            [rows[n] for n in numbers],
            [texts[n] for n in numbers],
            [prompt_ids[n] for n in numbers],
            [given[n] for n in numbers],
        )
        known = dict(zip([tails[n] for n in numbers], behind, strict=True))
        return [(ids, known[tail]) for ids, tail in zip(prompt_ids, tails, strict=True)]

    def _targets(
        self,
        rows: Sequence[Text],
        texts: Sequence[str],
        prompt_ids: Sequence[list[int]],
        given: Sequence[Sequence[str]],
    ) -> list[Targets]:
        """Return for each row the ids of its targets behind its prompt, with what ends them."""
        behind = iter(self._target_ids(texts, prompt_ids, given))
        found = []
        for row, text, ids, targets in zip(rows, texts, prompt_ids, given, strict=True):
            answers = list(islice(behind, len(targets)))
            if not self.task.choices and not targets[0]:
                # A text of one's own has no target to read: a token that the model knows stands for it.
                answers = [ids[-1:]]
            for target, answer in zip(targets, answers, strict=True):
                if not answer:
                    raise UserError(f"{row.place}: the target {target!r} tokenizes to nothing")
            ending = self._behind_solved(text, ids, dict(zip(targets, answers, strict=True)))
            target_ids = tuple((*answer, *ending) for answer in answers)
            for each in target_ids:
                self._check_known(row, each)
            found.append(target_ids)
        return found

    def _behind_solved(self, text: str, prompt_ids: list[int], answers: dict[str, list[int]]) -> Sequence[int]:
        """Return what ends a row's targets: behind solved examples, the token that would follow if it were one of them.

        What stands behind a separator decides on its tokens, too: of two line breaks at the end of a text, many
        tokenizers make one token, and two of those between texts.
        """
        if not self.separator:
            return self.ending
        for target, answer in answers.items():
            ids = prompt_ids + answer
            (whole,) = self._prompt_ids([text + target + self.separator + text])
            if whole[: len(ids)] == ids:
                return whole[len(ids) : len(ids) + 1]
        (apart,) = self.encoder.ids([self.separator], special=False)
        return apart[:1] or self.ending

    def _check_known(self, row: Text, ids: Sequence[int]) -> None:
        vocabulary = self.spec.vocabulary
        if vocabulary is not None and max(ids) >= vocabulary:
            raise UserError(
                f"{row.place}: token {self.tokenizer.convert_ids_to_tokens(max(ids))!r} has the number {max(ids)}, and "
                f"the base model has embeddings of {vocabulary} tokens only: take the tokenizer that belongs to it, "
                "or resize the model"
            )

    def _prompt_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self.task.config.chat:  # the template has written its special tokens out
            return self.encoder.ids(texts, special=False)
        return self.encoder.open_ids(texts) if self.spec.kind == "decoder" else self.encoder.ids(texts, special=True)

    def _target_ids(
        self, texts: Sequence[str], prompt_ids: Sequence[list[int]], given: Sequence[Sequence[str]]
    ) -> list[list[int]]:
        """Return the ids of each row's targets, one row's after the other's."""
        # An answer that stands alone, in a decoder of its own or in a message, does not begin with a space.
        alone = self.spec.kind == "encoder-decoder" or self.task.config.chat
        targets = [[t.strip() if alone else t for t in row] for row in given]
        if self.spec.kind == "encoder-decoder":
            return self._own_ids(list(chain(*targets)))
        # The target as it continues this prompt: tokenizers of the SentencePiece kind put a space of their own in front
        # of a text that stands alone. Where the two fuse into other tokens, they are tokenized apart.
        if self.encoder.is_in_pieces:  # the last piece of a prompt decides alone, and many prompts end alike
            tails = map(self.encoder.tail, texts)
            pairs = [(tail, t) for tail, row in zip(tails, targets, strict=True) for t in row]
            distinct = list(dict.fromkeys(pairs))
            prompts = self.encoder.ids([tail for tail, _ in distinct], special=False)
            whole = self.encoder.ids([tail + t for tail, t in distinct], special=False)
        else:
            pairs = distinct = [(text, t) for text, row in zip(texts, targets, strict=True) for t in row]
            prompts = [ids for ids, row in zip(prompt_ids, targets, strict=True) for _ in row]
            whole = self._prompt_ids([text + t for text, t in pairs])
        joint = [w[len(ids) :] if w[: len(ids)] == ids else None for w, ids in zip(whole, prompts, strict=True)]
        apart = iter(self._own_ids([t for (_, t), ids in zip(distinct, joint, strict=True) if ids is None]))
        found = [next(apart) if ids is None else ids for ids in joint]
        if distinct is pairs:
            return found
        known = dict(zip(distinct, found, strict=True))
        return [known[pair] for pair in pairs]

    def _own_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts that stand alone; many may be the same."""
        distinct = list(dict.fromkeys(texts))
        ids = dict(zip(distinct, self.encoder.ids(distinct, special=False), strict=True))
        return [ids[text] for text in texts]

    def _fit(self, row: Text, targets: Sequence[str], read: _Ids) -> _Ids:
        """Return the ids of one row, its prompt cut if it is too long and may be cut."""
        config = self.task.config
        limit = config.max_length if self.spec.room is None else min(config.max_length, self.spec.room)
        prompt_ids, target_ids = read
        length = self._length(read)
        excess = length - limit
        if excess <= 0:
            return read
        # Whatever stands in front of a text is there in every one: the model has never read one without.
        first = (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id)
        kept = 1 if prompt_ids[0] in first else 0
        # What a tokenizer puts behind every text of an encoder stays as well.
        closing = 0 if self.spec.kind == "decoder" else self.encoder.closing(row.prompt)
        own = len(prompt_ids) - kept - closing
        if config.chat:
            own = len(self.encoder.ids([row.prompt], special=False)[0])
        possible = own - excess >= 1
        if not possible or config.long_rows != "cut_prompt":
            advice = "raise task.max_length" if limit == config.max_length else "the base model takes no more"
            target = "" if self.spec.kind == "encoder" else f" ({max(map(len, target_ids))} of them target)"
            raise RowTooLongError(
                f"{row.place}: {length} tokens{target} do not fit into {limit}",
                f"{advice}, shorten the row" + (", or set task.long_rows to cut_prompt" if possible else ""),
            )
        if config.chat:  # the template stays whole, the message loses its beginning
            return self._cut_message(row, targets, excess, limit)
        return prompt_ids[:kept] + prompt_ids[kept + excess :], target_ids

    def _length(self, read: _Ids) -> int:
        prompt_ids, target_ids = read
        # The target of an encoder is the number of an output.
        return len(prompt_ids) + (0 if self.spec.kind == "encoder" else max(map(len, target_ids)))

    def _cut_message(self, row: Text, targets: Sequence[str], excess: int, limit: int) -> _Ids:
        """Return the ids of a message without its beginning, as short a one as makes them fit.

        Cut text makes other tokens than those that were left of it, at times as many as before. Every turn takes a
        character off at least.
        """
        message = row.prompt
        while message and excess > 0:
            message = message[self._end_of_tokens(message, excess) :]
            (read,) = self._tokens([row], [message], [targets])
            excess = self._length(read) - limit
        if not message.strip():
            raise UserError(f"{row.place}: nothing of the prompt would be left of {limit} tokens; shorten the row")
        return read

    def _end_of_tokens(self, text: str, count: int) -> int:
        """Return where in a text its first `count` tokens end, in characters; at least 1."""
        if not self.tokenizer.is_fast:
            share = count / max(1, len(self.tokenizer(text, add_special_tokens=False).input_ids))
            return max(1, math.floor(len(text) * share))
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        return max(1, offsets[count][0] if count < len(offsets) else len(text))


def behind(data: EncodedTask, soft_prompt: int) -> EncodedTask:
    """Return the task with its documents behind another soft prompt of the bank."""
    return moved_behind(data, lambda _: soft_prompt)


def moved_behind(data: EncodedTask, number: Callable[[Example], int]) -> EncodedTask:
    """Return the task with the documents of each example behind the soft prompt of that number."""

    def moved(examples: Sequence[Example]) -> Sequence[Example]:
        if isinstance(examples, StoredExamples) and examples.span == examples.whole:
            return examples.moved(array("H", map(number, examples)))
        return [_moved(example, number(example)) for example in examples]

    return EncodedTask(data.task, moved(data.train), moved(data.validation), moved(data.test), data.ends)


def _moved(example: Example, k: int) -> Example:
    document = replace(example.document, soft_prompt=k)
    return replace(example, document=document, choices=tuple(replace(d, soft_prompt=k) for d in example.choices))
