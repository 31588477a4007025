"""Tokenize single rows: prompts, the targets that continue them, and rows that are too long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple

from softprompts.data.tables import BATCH, Writer
from softprompts.encoding.chats import in_chat
from softprompts.encoding.documents import ChoiceWriter, ExampleWriter, Targets
from softprompts.encoding.encoder import Encoder
from softprompts.errors import UserError
from softprompts.models.loading import InputSpec
from softprompts.tasks.rows import Text, texts_of
from softprompts.tasks.task import Task

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

_Ids = tuple[list[int], Targets]  # of a prompt, and of each target
NO_POSITIONS = "the base model has no more positions"


class _Bound(NamedTuple):
    """A limit on tokens of a row: their number, what kind of tokens they are, the limit, and the advice beyond it."""

    length: int
    kind: str
    limit: int
    advice: str


class RowTooLongError(UserError):
    """A row has too many tokens. `facts` is the message without the advice, which a caller may replace."""

    def __init__(self, facts: str, advice: str = "") -> None:
        super().__init__(f"{facts}; {advice}" if advice else facts)
        self.facts = facts


class NestedError(Exception):
    """The tokens of one choice begin those of another."""

    def __init__(self, pair: tuple[str, str]) -> None:
        super().__init__(pair)
        self.pair = pair


def _nested(choices: Sequence[str], ids: Targets, place: str) -> tuple[str, str] | None:
    """Return two choices if the tokens of one begin with those of the other; None if there is no such pair.

    Raises:
        UserError: two choices are the same tokens.
    """
    found = None
    # In sorted order, a sequence directly precedes those that begin with it.
    for (first, a), (second, b) in pairwise(sorted(zip(ids, choices, strict=True))):
        if first == second:
            raise UserError(
                f"task.choices: {a!r} and {b!r} are the same tokens to this tokenizer ({place}): "
                "they cannot be told apart; rename one of them"
            )
        found = found or ((a, b) if second[: len(first)] == first else None)
    return found


@dataclass(frozen=True)
class RowTokenizer:
    """Make token ids of rows. `ending` are the tokens that follow each target: one, or none.

    If the prompts contain few-shot examples, `separator` ends a target instead, as it ends the examples' targets.
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
                    if choices is None or ids in targets.numbers:
                        continue
                    self._check_apart(ids, text.place)
                    targets.numbers[ids] = len(targets.numbers)
                answers = [numbers[text.target] if choices else None for text in batch]
                examples.write([ids for ids, _ in read], [ids for _, ids in read], answers)
            digests[name] = examples.digest.hexdigest()
        targets.close()
        return {"sha256": digests}

    def read(self, row: Text) -> _Ids:
        """Return the token ids of one row, without writing them.

        Raises:
            UserError, NestedError: as `write`.
        """
        (read,) = self._read([row])
        self._check_apart(read[1], row.place)
        return read

    def prompt_ids(self, row: Text) -> list[int]:
        """Return the token ids of one row's prompt; they do not depend on its targets.

        Raises:
            UserError: as `write`, but for a row that is too long.
        """
        (ids,) = self._prompts([row], [row.prompt])[1]
        return ids

    def check_prompt(self, row: Text, ids: Sequence[int]) -> None:
        """Raise `UserError` for a prompt of no tokens, or with one that the base model does not know."""
        if not ids:
            raise UserError(f"{row.place}: the prompt tokenizes to nothing")
        self._check_known(row, ids)

    def _check_apart(self, ids: Targets, place: str) -> None:
        """Raise `NestedError` if the tokens of one choice begin those of another."""
        if self.task.choices is None or self.spec.kind == "encoder":
            return
        if pair := _nested(self.task.choices, ids, place):
            raise NestedError(pair)

    def _read(self, rows: Sequence[Text]) -> list[_Ids]:
        """Return the token ids of rows. If several rows are refused, the error names the first."""
        try:
            given = [self.task.choices or (row.target,) for row in rows]
            read = self._tokens(rows, [row.prompt for row in rows], given)
            return [self._fit(*each) for each in zip(rows, given, read, strict=True)]
        except UserError:
            for row in rows if len(rows) > 1 else ():
                self._read([row])
            raise

    def _tokens(self, rows: Sequence[Text], prompts: Sequence[str], given: Sequence[Sequence[str]]) -> list[_Ids]:
        """Return the ids of each row's prompt, and of each of its targets after the prompt."""
        texts, prompt_ids = self._prompts(rows, prompts)
        if self.spec.kind == "encoder":
            return [(ids, tuple((n,) for n in range(len(t)))) for ids, t in zip(prompt_ids, given, strict=True)]
        if not self.encoder.is_in_pieces or self.separator or not self.task.choices:
            return list(zip(prompt_ids, self._targets(rows, texts, prompt_ids, given), strict=True))
        # The tokens of the choices depend only on the prompt's last piece, and many prompts end alike.
        tails = [self.encoder.tail(text) for text in texts]
        first = {tail: n for n, tail in reversed(list(enumerate(tails)))}
        numbers = sorted(first.values())
        after_tails = self._targets(
            [rows[n] for n in numbers],
            [texts[n] for n in numbers],
            [prompt_ids[n] for n in numbers],
            [given[n] for n in numbers],
        )
        known = dict(zip([tails[n] for n in numbers], after_tails, strict=True))
        return [(ids, known[tail]) for ids, tail in zip(prompt_ids, tails, strict=True)]

    def _prompts(self, rows: Sequence[Text], prompts: Sequence[str]) -> tuple[Sequence[str], list[list[int]]]:
        """Return prompts as the model sees them, in a chat if rows are one, and their ids."""
        texts = [in_chat(self.task, self.tokenizer, p) for p in prompts] if self.task.config.chat else prompts
        prompt_ids = self._prompt_ids(texts)
        for row, ids in zip(rows, prompt_ids, strict=True):
            self.check_prompt(row, ids)
        return texts, prompt_ids

    def _targets(
        self,
        rows: Sequence[Text],
        texts: Sequence[str],
        prompt_ids: Sequence[list[int]],
        given: Sequence[Sequence[str]],
    ) -> list[Targets]:
        """Return the ids of each row's targets after its prompt, each with its ending."""
        answers_left = iter(self._target_ids(texts, prompt_ids, given))
        found = []
        for row, text, ids, targets in zip(rows, texts, prompt_ids, given, strict=True):
            answers = list(islice(answers_left, len(targets)))
            if not self.task.choices and not targets[0]:
                # A user's text has no target. A token that the model knows replaces it.
                answers = [ids[-1:]]
            for target, answer in zip(targets, answers, strict=True):
                if not answer:
                    raise UserError(f"{row.place}: the target {target!r} tokenizes to nothing")
            ending = self._ending_after(text, ids, dict(zip(targets, answers, strict=True)))
            target_ids = tuple((*answer, *ending) for answer in answers)
            for each in target_ids:
                self._check_known(row, each)
            found.append(target_ids)
        return found

    def _ending_after(self, text: str, prompt_ids: list[int], answers: dict[str, list[int]]) -> Sequence[int]:
        """Return the end of a row's targets. With few-shot examples, it is the token that would follow an example.

        The text after a separator affects the separator's tokens: many tokenizers make one token of two line breaks at
        the end of a text, and two tokens of them between texts.
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
                f"the base model has only embeddings of {vocabulary} tokens; use the tokenizer that belongs to it, or "
                "resize the model"
            )

    def _prompt_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self.task.config.chat:  # the template contains its special tokens
            return self.encoder.ids(texts, special=False)
        return self.encoder.open_ids(texts) if self.spec.kind == "decoder" else self.encoder.ids(texts, special=True)

    def _target_ids(
        self, texts: Sequence[str], prompt_ids: Sequence[list[int]], given: Sequence[Sequence[str]]
    ) -> list[list[int]]:
        """Return the ids of all rows' targets in one list, row by row."""
        # A target that does not continue a text, in an encoder-decoder or a message, does not begin with a space.
        alone = self.spec.kind == "encoder-decoder" or self.task.config.chat
        targets = [[t.strip() if alone else t for t in row] for row in given]
        if self.spec.kind == "encoder-decoder":
            return self._own_ids(list(chain(*targets)))
        # The target as it continues this prompt: SentencePiece tokenizers add a space before a separate text. If prompt
        # and target fuse into other tokens, they are tokenized separately.
        if self.encoder.is_in_pieces:  # only the last piece of a prompt matters, and many prompts end alike
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
        """Return the ids of separate texts; many may be the same."""
        distinct = list(dict.fromkeys(texts))
        ids = dict(zip(distinct, self.encoder.ids(distinct, special=False), strict=True))
        return [ids[text] for text in texts]

    def _fit(self, row: Text, targets: Sequence[str], read: _Ids) -> _Ids:
        """Return the ids of one row. A prompt that is too long is cut if this is allowed."""
        config = self.task.config
        prompt_ids, target_ids = read
        self._check_target(row, target_ids)
        bound = self._bound(read)
        excess = bound.length - bound.limit
        if excess <= 0:
            return read
        # The first token of every text is kept, because the model has never read a text without it.
        first = (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id)
        kept = 1 if prompt_ids[0] in first else 0
        # The last token of every text of an encoder is kept as well.
        closing = 0 if self.spec.kind == "decoder" else self.encoder.closing(row.prompt)
        own = len(prompt_ids) - kept - closing
        if config.chat:
            own = len(self.encoder.ids([row.prompt], special=False)[0])
        possible = own - excess >= 1
        if not possible or config.long_rows != "cut_prompt":
            fewer = ", take fewer few-shot examples" if self.task.separator else ""
            raise RowTooLongError(
                f"{row.place}: {bound.length} tokens{bound.kind} do not fit into {bound.limit}",
                f"{bound.advice}{fewer}, shorten the row"
                + (", or set task.long_rows to cut_prompt" if possible else ""),
            )
        if config.chat:  # the template stays whole; the message is cut at its beginning
            return self._cut_message(row, targets, bound)
        return prompt_ids[:kept] + prompt_ids[kept + excess :], target_ids

    def _check_target(self, row: Text, target_ids: Targets) -> None:
        """Raise `RowTooLongError` if a target has more tokens than an encoder-decoder generates."""
        longest, room = max(map(len, target_ids)), self.spec.target_room
        if room is not None and longest > room:
            raise RowTooLongError(
                f"{row.place}: {longest} tokens of the target do not fit into {room}",
                f"{NO_POSITIONS}, shorten the row",
            )

    def _bound(self, read: _Ids) -> _Bound:
        """Return the limit that a row exceeds most, or comes closest to."""
        prompt_ids, target_ids = read
        # The target of an encoder is the number of an output.
        target = 0 if self.spec.kind == "encoder" else max(map(len, target_ids))
        length, kind = len(prompt_ids) + target, f" ({target} of them target)" if target else ""
        bounds = [_Bound(length, kind, self.task.config.max_length, "raise task.max_length")]
        if self.spec.room is not None:
            if self.spec.kind == "encoder-decoder":  # its decoder has positions of its own
                length, kind = len(prompt_ids), " of the prompt"
            bounds.append(_Bound(length, kind, self.spec.room, NO_POSITIONS))
        return max(bounds, key=lambda bound: bound.length - bound.limit)

    def _cut_message(self, row: Text, targets: Sequence[str], bound: _Bound) -> _Ids:
        """Return the ids of a message that is cut at its beginning, by as little as possible.

        A cut text has other tokens than before, sometimes as many. Every turn removes at least one character.
        """
        message = row.prompt
        while message and (excess := bound.length - bound.limit) > 0:
            message = message[self._end_of_tokens(message, excess) :]
            (read,) = self._tokens([row], [message], [targets])
            bound = self._bound(read)
        if not message.strip():
            raise UserError(
                f"{row.place}: nothing of the prompt would be left within {bound.limit} tokens; shorten the row"
            )
        return read

    def _end_of_tokens(self, text: str, count: int) -> int:
        """Return the number of characters of a text's first `count` tokens; at least 1."""
        if not self.tokenizer.is_fast:
            share = count / max(1, len(self.tokenizer(text, add_special_tokens=False).input_ids))
            return max(1, math.floor(len(text) * share))
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        return max(1, offsets[count][0] if count < len(offsets) else len(text))
