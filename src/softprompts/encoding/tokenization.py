"""Convert rows to token ids for the kind of base model. Targets are never truncated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TypeVar

from softprompts.data.tables import Tables, key_of, make_tables
from softprompts.encoding.chats import in_chat
from softprompts.encoding.controls import control_tokens, warn_once
from softprompts.encoding.documents import CHOICES_SCHEMA, SCHEMA, EncodedTask, StoredExamples, longest_example
from softprompts.encoding.encoder import Encoder
from softprompts.encoding.row_tokens import NestedError, RowTokenizer
from softprompts.encoding.targets import lost_targets
from softprompts.errors import UserError, warn
from softprompts.models.identity.settings import tokenizer_digests
from softprompts.models.loading import InputSpec
from softprompts.tasks.rows import key_of_rows
from softprompts.tasks.task import Task

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

T = TypeVar("T")
SAMPLED = 8  # rows per split that show whether a tokenizer gives the same ids for many texts at once


def encode(
    task: Task, tokenizer: PreTrainedTokenizerBase, spec: InputSpec | None = None, needs_end: bool = True
) -> EncodedTask:
    """Tokenize a task.

    A choice is scored by the likelihood of its tokens. If the tokens of one choice begin with those of another, as for
    "JavaScript" and "Java", the shorter one would always be at least as likely. In this case every choice gets the
    token that ends a prediction, in training and in scoring. Other choices do not, because it did not help
    (docs/lab-log.md).

    Args:
        task: the rows; `task.config` has the settings for long rows and chats.
        tokenizer: the base model's tokenizer. Open targets get the end token, so that the model learns to stop.
        spec: limits of the base model's input; by default a decoder without limits.
        needs_end: whether open targets must have an end token; without one, generation runs to its greatest length.

    Raises:
        UserError: a target has no tokens; a row is longer than `task.max_length` or the model's positions; `in_chat`
            refuses the chat template; a token id has no embedding in the base model; two choices have the same tokens;
            the tokenizer lacks a required end token.
    """
    spec = spec or InputSpec()
    end = end_of_answer(task, tokenizer)
    written = task.choices is None and spec.kind != "encoder"
    if written and end is None and needs_end:
        raise _endless(tokenizer, "a generated prediction would never end")
    encoder = Encoder(tokenizer, _sample(task))
    ends = tuple(dict.fromkeys([*([] if end is None else [end]), *spec.ends]))
    reader = RowTokenizer(task, tokenizer, encoder, spec, (end,) if written and end is not None else ())
    keys = [key_of_rows(rows) for rows in task.splits.values()]
    key = None
    if encoder.is_batched and all(keys):
        settings = {name: getattr(task.config, name) for name in ("chat", "system", "max_length", "long_rows")}
        kind = [type(tokenizer).__qualname__, tokenizer_digests(tokenizer)]
        key = key_of("tokens", keys, kind, asdict(spec), needs_end, task.choices, task.separator, settings)
    schemas = dict.fromkeys(task.splits, SCHEMA) | {"choices": CHOICES_SCHEMA}

    def write(one: RowTokenizer) -> Tables:
        return make_tables(key and (key if one is reader else f"{key}-ended"), schemas, one.write)

    tables = read_apart(reader, end, write)
    splits = {name: StoredExamples(rows, tables, name, task.choices or ()) for name, rows in task.splits.items()}
    data = EncodedTask(task, **splits, ends=ends)
    said = make_tables(key and key_of("controls", key), {}, lambda _: control_tokens(task, tokenizer))
    for text in said.notes:
        warn_once(text)
    if written:
        lost = make_tables(key and key_of("lost", key, ends), {}, lambda _: lost_targets(data, tokenizer))
        for text in lost.notes:
            warn(text)
    return data


def check_lengths(data: EncodedTask, spec: InputSpec) -> None:
    """Raise `UserError` if a row is longer than a model allows that has more virtual tokens than it was encoded for."""
    if spec.room is None:
        return
    longest, _ = longest_example(data, prompts_only=spec.kind == "encoder-decoder")
    if longest > spec.room:
        raise UserError(
            f"num_virtual_tokens: the longest row has {longest} tokens, and these virtual tokens leave room for "
            f"{spec.room}; lower task.max_length"
        )


def read_apart(reader: RowTokenizer, end: int | None, read: Callable[[RowTokenizer], T]) -> T:
    """Read rows; if one choice begins another, read them again with an end after each choice.

    Args:
        reader: a reader of rows whose choices have no end.
        end: the token that ends an answer, from `end_of_answer`.
        read: function that uses a reader.

    Raises:
        UserError: raised by `read`; the tokenizer has no end; a choice contains the end of another.
    """
    try:
        return read(reader)
    except NestedError as nested:
        first, second = nested.pair
        if end is None:
            why = f"choice {first!r} begins choice {second!r} and requires an end"
            raise _endless(reader.tokenizer, why) from None
    try:
        return read(replace(reader, ending=(end,), separator=_separator(reader.task, reader.spec)))
    except NestedError as still:
        first, second = still.pair
        raise UserError(
            f"task.choices: {second!r} contains the end of {first!r}; the two cannot be told apart"
        ) from None


def _endless(tokenizer: PreTrainedTokenizerBase, why: str) -> UserError:
    name = tokenizer.name_or_path
    return UserError(
        f"model.name_or_path: the tokenizer of {name} has no end-of-sequence token (eos_token): {why}; "
        "name one in its tokenizer_config.json"
    )


def _sample(task: Task) -> list[str]:
    """Return texts of evenly spread rows of each split: prompts, and prompts with their targets."""
    texts = []
    for rows in task.splits.values():
        for n in range(0, len(rows), max(1, len(rows) // SAMPLED)):
            texts += [rows[n].prompt, rows[n].prompt + rows[n].target]
    return texts


def end_of_answer(task: Task, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that ends a prediction: that of the chat template, or else the end of the sequence.

    In BERT's tokenizers it is the separator. None if there is no such token.
    """
    usual = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if task.config.chat:
        after = in_chat(task, tokenizer, "?", "ANSWER").rpartition("ANSWER")[2]
        ids = tokenizer(after, add_special_tokens=False).input_ids
        # Some special tokens have no role in the tokenizer, for example Gemma's <end_of_turn>.
        added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        marks = added.union(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # it may stand for any text
        return next((i for i in ids if i in marks), usual)
    return usual


def _separator(task: Task, spec: InputSpec) -> str:
    """Return the text after the targets of few-shot examples; empty if a target does not continue its prompt."""
    return "" if task.config.chat or spec.kind == "encoder-decoder" else task.separator
