"""Collect the sources of an export: adapters by task name, rows for the comparison, and how tasks read texts."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from softprompts.adapters.configs import read_config
from softprompts.adapters.loading import find_adapter, run_settings
from softprompts.config.sections import ModelConfig, TaskConfig
from softprompts.config.tools import AdapterConfig, ExportConfig, InputConfig
from softprompts.data.sources import EMBEDDED_PREFIX, SPLITS
from softprompts.encoding.chats import in_chat
from softprompts.errors import UserError, listed, settings_named, short
from softprompts.evaluation.interactive import choices_of_run, task_of_texts
from softprompts.tasks.task import Row, Task, licence_of, load_task, render

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class Source:
    """An adapter to export.

    name: the task's name; key: the setting that named the adapter; folder: the folder of its files; kind: PEFT's name
    of its type; task: the rows for the comparison, the same in all three splits.
    """

    name: str
    key: str
    adapter: AdapterConfig
    folder: Path
    kind: str
    task: Task


@dataclass(frozen=True)
class Job:
    """The settings and sources of an export."""

    model: ModelConfig
    config: ExportConfig
    sources: Sequence[Source]


@dataclass(frozen=True)
class Reading:
    """The way in which a task reads texts. `text_of` fills the template, `ids_of` returns the token ids.

    head_ids: tokens that the tokenizer puts before each text; a chat template has its own.
    """

    num_virtual_tokens: int
    template: str
    chat: bool
    system: str | None
    choices: list[str] | None
    head_ids: list[int]

    def text_of(self, tokenizer: PreTrainedTokenizerBase, columns: dict[str, Any]) -> str:
        """Return the text of one request: the template filled with these columns, within the chat template if any.

        Raises:
            UserError: a column is missing or has no text; the chat template fails.
        """
        return shown(self.template, self.chat, self.system, tokenizer, render(self.template, columns, "request"))

    def ids_of(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """Return the token ids of a text, including those before it."""
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return [*self.head_ids, *ids]


def shown(template: str, chat: bool, system: str | None, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Return a prompt as the model reads it: unchanged, or in the tokenizer's chat template."""
    if not chat:
        return prompt
    config = TaskConfig(prompt=template, target="", chat=True, system=system)
    return in_chat(Task("request", {}, None, (), "", config), tokenizer, prompt)


def reading_of(source: Source, tokenizer: PreTrainedTokenizerBase, count: int, prompt_ids: Sequence[int]) -> Reading:
    """Return the `Reading` of an adapter's task.

    Args:
        source: the adapter.
        tokenizer: the base model's tokenizer.
        count: number of virtual tokens.
        prompt_ids: token ids of the first row, which show the tokens before a text.

    Raises:
        UserError: the tokenizer changes a text by more than tokens before it.
    """
    task, choices = source.task.config, source.task.choices
    plain = Reading(count, task.prompt, task.chat, task.system, None if choices is None else list(choices), [])
    own = plain.ids_of(tokenizer, row_text(plain, tokenizer, source.task.splits["test"][0]))
    head = list(prompt_ids[: len(prompt_ids) - len(own)])
    if [*head, *own] != list(prompt_ids):
        raise UserError(
            f"model.name_or_path: the tokenizer of {tokenizer.name_or_path} adds more to a text than tokens before it; "
            "export.to peft does not depend on it"
        )
    return replace(plain, head_ids=head)


def row_text(reading: Reading, tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
    """Return the text of a row as the model reads it."""
    return shown(reading.template, reading.chat, reading.system, tokenizer, row.prompt)


def sources_of(adapter: AdapterConfig, config: ExportConfig, texts: InputConfig) -> list[Source]:
    """Return the adapters to export, each with rows for the comparison.

    Raises:
        UserError: no adapter is named, or in both ways; a task name has other characters or occurs twice; an adapter is
            missing; rows cannot be read, and no texts replace them; a number of rows is given with texts.
    """
    if bool(adapter.path) == bool(config.adapters):
        found = "both" if adapter.path else "neither"
        raise UserError(f"adapter.path: expected an adapter here or in export.adapters, found {found}")
    if not texts.text and texts != InputConfig():
        raise UserError("input.text: input.template, choices and chat require texts; set input.text")
    if texts.text and config.rows != ExportConfig.rows:
        raise UserError("export.rows: does not apply to the texts of input.text; leave one of them out")
    given = config.adapters or {_task_name(adapter.path or ""): adapter.path or ""}
    for name in given:
        _check_name(name)
    for one, other in combinations(given, 2):
        if one.casefold() == other.casefold():
            raise UserError(f"export.adapters: {one} and {other} differ only in upper case; rename one of them")
    sources = []
    for name, path in given.items():
        key = f"export.adapters.{name}" if config.adapters else "adapter.path"
        with settings_named({"adapter.path": key}):
            folder = find_adapter(path)
            kind = read_config(folder).peft_type
            task = _rows(path, config.rows, texts)
        own = replace(adapter, path=path)
        sources.append(Source(name, key, own, folder, str(getattr(kind, "value", kind)), task))
    return sources


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        close = _valid_name(name)
        raise UserError(
            f'export.adapters: the task name "{short(name)}" may contain only letters, digits, "_", "." and "-"; '
            f"name it {close}: --export.adapters '{{{close}: ...}}'"
        )


def _valid_name(text: str) -> str:
    """Return the nearest valid task name."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", plain)[:64] or "task"


def _task_name(path: str) -> str:
    """Return a name for an adapter's task, or for its folder if the task is unknown."""
    task = run_settings(path).get("task", {})
    named = task.get("name") or task.get("dataset") or Path(task.get("train") or "").stem
    return _valid_name(str(named).removeprefix(EMBEDDED_PREFIX) or Path(path).name)


def _rows(path: str, count: int, texts: InputConfig) -> Task:
    """Return a task whose three splits have the same few rows: the run's validation rows, or the user's texts."""
    settings = run_settings(path)
    if texts.text:
        return task_of_texts(texts, settings)
    if "task" not in settings:
        raise UserError(f"input.text: the training rows of {path} are unknown; set texts for the comparison")
    try:
        task = load_task(_config_of(settings))
    except UserError as error:
        raise UserError(f"input.text: the rows of {path} cannot be read: {error}; set texts instead") from None
    rows = list(task.splits["validation"][:count])
    # A cut prompt has no text.
    whole = replace(task.config, max_length=sys.maxsize, long_rows="error")
    return replace(task, splits=dict.fromkeys(SPLITS, rows), config=whole)


def _config_of(settings: Mapping[str, Any]) -> TaskConfig:
    """Return the task's section of a run's settings, without keys of another version."""
    known = {field.name for field in fields(TaskConfig)}
    return TaskConfig(**{key: value for key, value in settings["task"].items() if key in known})


def as_trained(source: Source) -> Task:
    """Return the task of an adapter's run, as a card describes it, even if other texts are read for the comparison.

    Without a known run it is the task of these texts, whose licence is unknown.
    """
    settings = run_settings(source.adapter.path or "")
    if "task" not in settings:
        return replace(source.task, licence="unknown")
    config = _config_of(settings)
    choices = source.task.choices if config.choices == "from_train" else tuple(choices_of_run(settings) or ()) or None
    return replace(source.task, choices=choices, licence=licence_of(config), config=config)


def check_kinds(job: Job, kinds: Sequence[str], what: str) -> None:
    """Raise `UserError` for an adapter whose type the form does not support.

    Args:
        job: the export.
        kinds: PEFT's names of the types.
        what: the types in words.
    """
    for source in job.sources:
        if source.kind not in kinds:
            raise UserError(
                f"{source.key}: export.to {job.config.to} supports {what}, but {source.folder} is of type "
                f"{source.kind}; export.to peft and hub support every type, kv_cache supports prefixes"
            )


@contextmanager
def naming(source: Source) -> Iterator[None]:
    """Within this context, an error about an adapter names the setting that named the adapter."""
    with settings_named({"adapter.path": source.key}):
        yield


def as_record(readings: Mapping[str, Reading]) -> dict[str, Any]:
    """Return readings by task name as JSON values."""
    return {name: asdict(reading) for name, reading in readings.items()}


def reading_from(name: str, record: Mapping[str, Any], folder: Path) -> Reading:
    """Return the reading of a task from the record of an export.

    Raises:
        UserError: the task is unknown, or the record is damaged.
    """
    if name not in record:
        raise UserError(f'{folder}: no task "{short(name)}" (there are: {listed(record)})')
    try:
        return Reading(**record[name])
    except TypeError as error:
        raise UserError(f"{folder}: the record of {name} is damaged: {short(error)}") from None
