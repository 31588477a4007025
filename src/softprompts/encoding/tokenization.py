"""Turn rows into token ids, as the kind of base model reads them: a target is never truncated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TypeVar

from softprompts.data.tables import Tables, key_of, make_tables
from softprompts.encoding.chats import in_chat
from softprompts.encoding.controls import control_tokens, warn_once
from softprompts.encoding.documents import CHOICES_SCHEMA, SCHEMA, EncodedTask, StoredExamples
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
SAMPLED = 8  # rows of each split that show whether a tokenizer gives the same ids for many texts at a time


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
            whose template `in_chat` refuses; token ids that the base model has no embedding of; choices that are the
            same tokens; a tokenizer without an end that is needed.
    """
    spec = spec or InputSpec()
    end = end_of_answer(task, tokenizer)
    written = task.choices is None and spec.kind != "encoder"
    if written and end is None and needs_end:
        raise _endless(tokenizer, "a written answer would never end")
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


def read_apart(reader: RowTokenizer, end: int | None, read: Callable[[RowTokenizer], T]) -> T:
    """Let a reader read rows; if one choice begins another there, let one read them that ends each choice.

    Args:
        reader: of rows whose choices have no end.
        end: the token that ends an answer, as `end_of_answer` gives it.
        read: what is done with a reader.

    Raises:
        UserError: what `read` raises; a tokenizer without an end that is needed; a choice that holds what ends another.
    """
    try:
        return read(reader)
    except NestedError as nested:
        first, second = nested.pair
        if end is None:
            why = f"choice {first!r} begins choice {second!r}, and needs an end"
            raise _endless(reader.tokenizer, why) from None
    try:
        return read(replace(reader, ending=(end,), separator=_separator(reader.task, reader.spec)))
    except NestedError as still:
        first, second = still.pair
        raise UserError(f"task.choices: {second!r} holds what ends {first!r}; the two cannot be told apart") from None


def _endless(tokenizer: PreTrainedTokenizerBase, why: str) -> UserError:
    name = tokenizer.name_or_path
    return UserError(
        f"model.name_or_path: the tokenizer of {name} has no end-of-sequence token (eos_token): {why}; "
        "name one in its tokenizer_config.json"
    )


def _sample(task: Task) -> list[str]:
    """Return texts of some rows, evenly spread over each split: prompts, and prompts with their targets."""
    texts = []
    for rows in task.splits.values():
        for n in range(0, len(rows), max(1, len(rows) // SAMPLED)):
            texts += [rows[n].prompt, rows[n].prompt + rows[n].target]
    return texts


def end_of_answer(task: Task, tokenizer: PreTrainedTokenizerBase) -> int | None:
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
