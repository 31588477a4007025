"""The tasks that a server has: a trained soft prompt each, how a text becomes a prompt, and keys and values at need."""

from __future__ import annotations

import re
import string
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softprompts.adapters.configs import first_line, read_config
from softprompts.adapters.loading import find_adapter, load_adapter, run_settings
from softprompts.adapters.transfer import VALUES, read_values
from softprompts.config.sections import TaskConfig
from softprompts.config.tools import AdapterConfig
from softprompts.data.sources import SPLITS
from softprompts.data.values import Record
from softprompts.encoding.chats import in_chat
from softprompts.encoding.encoder import Encoder
from softprompts.encoding.tokenization import encode, end_of_answer
from softprompts.engine.forward import Engine, keys_and_values
from softprompts.engine.kv_cache import States, positions_of
from softprompts.errors import UserError, listed, nearest, settings_named, short
from softprompts.evaluation.interactive import record_of
from softprompts.export.kv_cache.writer import states_of
from softprompts.models.loading import input_spec
from softprompts.tasks.task import Row, Task, render
from softprompts.tasks.templates import check_template

import torch
from peft import PeftType
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SAMPLE = ("The quick brown fox.", " jumps\nover 12 lazy dogs!")  # texts that a tokenizer is tried on


@dataclass(frozen=True, eq=False)
class ServedTask:
    """A soft prompt, and how texts are put after it.

    name: by which requests ask for it; folder: of the adapter; soft: embeddings (P, H) float32, or keys and values of
    a prefix, or None for the base model itself; settings: those of the run that trained it, empty if unknown; ends:
    token ids that end its answers.
    """

    name: str
    folder: Path | None
    soft: torch.Tensor | States | None
    settings: dict[str, Any]
    ends: frozenset[int] = frozenset()

    @property
    def virtual_tokens(self) -> int:
        """Positions P that the soft prompt takes."""
        return positions_of(self.soft)

    @property
    def template(self) -> str:
        """Prompt template of the run, with columns in braces; `{text}` if no run is known."""
        return str(self.settings.get("task", {}).get("prompt") or "{text}")

    @property
    def columns(self) -> list[str]:
        """Columns of the template; one inside a value, such as `translation[en]`, is named with it."""
        return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(self.template) if name))

    @property
    def choices(self) -> tuple[str, ...]:
        """Answers that are scored by likelihood; empty if answers are written."""
        listed = self.settings.get("task", {}).get("choices")
        words = list(dict.fromkeys(listed.values())) if isinstance(listed, dict) else listed
        return tuple(words) if isinstance(words, list) else ()

    def as_target(self, choice: str) -> str:
        """Return a choice with the white space that the run's target template puts before a word."""
        target = str(self.settings.get("task", {}).get("target") or "")
        space = target[: len(target) - len(target.lstrip())]
        return choice if choice[:1].isspace() else space + choice

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return tuple(self.settings.get("evaluation", {}).get("stop") or ())

    @property
    def max_new_tokens(self) -> int | None:
        """Longest answer in the run's evaluation; None if no run is known."""
        found = self.settings.get("evaluation", {}).get("max_new_tokens")
        return found if isinstance(found, int) else None


class Tasks:
    """Soft prompts over one base model, by name.

    Adapters are read with all the checks of `load_adapter`; PEFT's wrapping is dropped again, and only what they
    learned is kept. Keys and values of embeddings are computed when a request first needs them, and the least recently
    used are dropped, so that a thousand tasks take hardly more memory than one.

    Nothing here may be called while a forward pass of the base model runs in another thread, except `get`, `names` and
    `prompt_ids`: loading tries the adapter on the model.
    """

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cache_bytes: int = 2**28) -> None:
        """Begin with the base model alone, under the name `base`; `cache_bytes` bounds the keys and values kept."""
        self.base, self.tokenizer, self.cache_bytes = base, tokenizer, cache_bytes
        self.computed = 0  # keys and values so far, for the metrics
        self.vocabulary = input_spec(base).vocabulary or len(tokenizer)  # token ids that have an embedding
        self._encoder = Encoder(tokenizer, SAMPLE)
        self.own_ends = frozenset(Engine(base, tokenizer).ends)
        self._tasks: dict[str, ServedTask] = {"base": ServedTask("base", None, None, {}, self.own_ends)}
        self._kept: OrderedDict[ServedTask, States] = OrderedDict()
        words: Any = base.get_input_embeddings()
        self._table_of_words = words.weight
        ((keys, _), *_) = keys_and_values(base, self._table_of_words[:1])
        self._groups = keys.shape[1], keys.shape[3]  # of heads that share keys, and the size of a head

    @property
    def names(self) -> list[str]:
        """All names, in the order in which they came."""
        return list(self._tasks)

    @property
    def all(self) -> list[ServedTask]:
        """All tasks, in the order in which they came."""
        return list(self._tasks.values())

    def get(self, name: str) -> ServedTask:
        """Return a task.

        Raises:
            UserError: there is none of that name.
        """
        found = self._tasks.get(name)
        if found is None:
            raise UserError(f'model: "{short(name)}"{nearest(name, self.names)}')
        return found

    def add(self, name: str, path: str) -> ServedTask:
        """Read an adapter and serve it from now on.

        Args:
            name: letters, digits, `.`, `_` and `-`, at most 64.
            path: folder of the adapter, or of the run that made it.

        Raises:
            UserError: a name that is taken or cannot be one; what `load_adapter` refuses; an adapter that changes the
                base model's weights, or one with several tasks.
        """
        if not NAME.fullmatch(name):
            raise UserError(f"{name!r}: expected letters, digits, '.', '_' and '-' as a task's name, at most 64")
        if name in self._tasks:
            raise UserError(f'"{name}" is served already: remove it first, or take another name')
        try:
            served = self._served(name, path)
        except UserError:
            raise
        except Exception as error:  # a stranger's files: any value in them may be of any type
            raise UserError(f"adapter.path: {path} cannot be read: {first_line(error)}") from None
        self._tasks[name] = served
        return served

    def _served(self, name: str, path: str) -> ServedTask:
        folder = find_adapter(path)
        config = read_config(folder)
        if not config.is_prompt_learning:  # before it is loaded: its layers would stay in the base model
            kind = getattr(config.peft_type, "value", config.peft_type)
            raise UserError(
                f"{folder}: is {kind}: it changes the base model, and requests of several tasks share that; serve "
                "prompt tuning, P-tuning, multitask prompt tuning or prefix tuning"
            )
        soft = self._read(folder, config)
        input_spec(self.base, positions_of(soft))  # room for a text
        settings = run_settings(path)
        _check_settings(settings, folder)
        served = ServedTask(name, folder, soft, settings, self.own_ends)
        if settings:
            end = end_of_answer(Task("request", {}, None, (), "yours", _config(served)), self.tokenizer)
            served = replace(served, ends=self.own_ends | ({end} if end is not None else frozenset()))
        return served

    def _read(self, folder: Path, config: Any) -> torch.Tensor | States:
        """Return the embeddings (P, H) of a soft prompt, float32, or the keys and values of a prefix."""
        if config.peft_type == PeftType.PROMPT_TUNING:
            return self._table(folder, config, self._table_of_words.shape[1]).float()
        if config.peft_type == PeftType.PREFIX_TUNING:
            groups, head_size = self._groups
            if (config.num_attention_heads, config.token_dim) != (groups, groups * head_size):
                raise UserError(
                    f"{folder}: has {config.num_attention_heads} groups of heads, {config.token_dim} wide together; "
                    f"those of the base model are {groups} and {groups * head_size}"
                )
            values = self._table(folder, config, config.num_layers * 2 * config.token_dim).to(self.base.dtype)
            layers = zip(*states_of(values, config), strict=True)
            return [(keys.transpose(0, 1)[None], values.transpose(0, 1)[None]) for keys, values in layers]
        model = load_adapter(self.base, AdapterConfig(path=str(folder)))
        engine = Engine(model, self.tokenizer)
        if len(engine.owners) > 1:
            raise UserError(f"{folder}: has {len(engine.owners)} tasks; serve the prompts that its run saved for each")
        with torch.no_grad():
            soft = engine.soft_prompt(0)
        assert soft is not None, "it is prompt learning"
        return soft.clone() if isinstance(soft, torch.Tensor) else soft

    def _table(self, folder: Path, config: Any, width: int) -> torch.Tensor:
        """Return the only table of an adapter's file, (P, width): a thousandth of the work of building PEFT's model.

        Raises:
            UserError: what `read_values` refuses; a table of another shape or type; another tensor beside it.
        """
        tensors = read_values(self.base, config, folder=folder, config=AdapterConfig(path=str(folder)))
        values = tensors.pop(VALUES)
        if tensors:
            raise UserError(f"{folder}: holds {listed(tensors)} beside its soft prompt: that changes the base model")
        if values.shape != (config.num_virtual_tokens, width) or not values.is_floating_point():
            shape = " x ".join(map(str, values.shape))
            raise UserError(
                f"{folder}: expected {config.num_virtual_tokens} x {width} floating-point numbers, found {shape} of "
                f"{values.dtype}"
            )
        return values.to(self.base.device)

    def remove(self, name: str) -> None:
        """Serve a task no longer; requests that run keep what they have.

        Raises:
            UserError: there is none of that name, or it is the base model.
        """
        task = self.get(name)
        if task.soft is None:
            raise UserError("the base model is always served")
        del self._tasks[name]
        self._kept.pop(task, None)

    def front(self, task: ServedTask) -> States | None:
        """Return the keys and values of a task's soft prompt, (1, G, P, D) each; None for the base model."""
        if not isinstance(task.soft, torch.Tensor):
            return task.soft
        if task not in self._kept:
            self._kept[task] = keys_and_values(self.base, task.soft.to(self.base.dtype))
            self.computed += 1
        self._kept.move_to_end(task)
        sizes = {kept: _bytes_of(states) for kept, states in self._kept.items()}
        for oldest in list(self._kept)[:-1]:
            if sum(sizes.values()) <= self.cache_bytes:
                break
            del self._kept[oldest], sizes[oldest]
        return self._kept[task]

    def raw_ids(self, text: str) -> list[int]:
        """Return the token ids of a text that is the whole prompt.

        Raises:
            UserError: a text that tokenizes to nothing.
        """
        (ids,) = self._encoder.open_ids([text])
        return _some(ids)

    def filled_ids(self, task: ServedTask, given: str | Record) -> list[int]:
        """Return the token ids of a prompt in the template of its task's run, in a chat if rows were one there.

        Args:
            task: whose template it is.
            given: the columns of the template; or the only one's text.

        Raises:
            UserError: a column that is missing; a text for a template with several; a text that tokenizes to nothing.
        """
        request = self._request(task, given)
        prompt = request.splits["test"][0].prompt
        if request.config.chat:
            (ids,) = self._encoder.ids([in_chat(request, self.tokenizer, prompt)], special=False)
        else:
            (ids,) = self._encoder.open_ids([prompt])
        return _some(ids)

    def chat_ids(self, task: ServedTask, messages: list[dict[str, str]]) -> list[int]:
        """Return the token ids of a conversation.

        A task whose run is known reads one user message, in its template. Any other, the base model say, reads all of
        them in the tokenizer's chat template.

        Args:
            task: whose turn it is.
            messages: each with its role and content.

        Raises:
            UserError: other messages than the task reads; no chat template, or one that refuses them.
        """
        if task.settings:
            if [message["role"] for message in messages] != ["user"]:
                found = ", ".join(message["role"] for message in messages)
                raise UserError(
                    f"messages: {task.name} was trained on single texts; send one user message, not {found}"
                )
            return self.filled_ids(task, messages[0]["content"])
        if not self.tokenizer.chat_template:
            raise UserError(f"messages: the tokenizer of {self.base.name_or_path} has no chat template; send a prompt")
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program of the model's folder: any of its lines may fail
            raise UserError(
                f"messages: the chat template refuses them: {short(' '.join(str(error).split()))}"
            ) from None
        (ids,) = self._encoder.ids([str(text)], special=False)
        return _some(ids)

    def choice_ids(
        self, task: ServedTask, given: str | Record, choices: Sequence[str]
    ) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """Return the token ids of a prompt and of each choice, as `encode` gives them in training.

        Raises:
            UserError: as `filled_ids`, and choices that cannot be told apart.
        """
        with settings_named({"task.choices": "choices"}):
            data = encode(self._request(task, given, choices), self.tokenizer, input_spec(self.base), needs_end=False)
        example = data.test[0]
        return example.document.prompt_ids, [document.target_ids for document in example.choices]

    def _request(self, task: ServedTask, given: str | Record, choices: Sequence[str] = ()) -> Task:
        """Return a task whose only row is a request."""
        if isinstance(given, str):
            if len(task.columns) != 1:
                raise UserError(f"{task.name} reads the columns {listed(task.columns)}; give them as `columns`")
            given = record_of(task.columns[0], given)
        row = Row("the request", render(task.template, given, "the request"), choices[0] if choices else "", given)
        rows = [row]
        return Task("request", dict.fromkeys(SPLITS, rows), tuple(choices) or None, (), "yours", _config(task))


def _config(task: ServedTask) -> TaskConfig:
    """Return how the run of a task formats a row."""
    before = task.settings.get("task", {})
    return TaskConfig(
        prompt=task.template,
        target=before.get("target") or " {answer}",
        chat=bool(before.get("chat")),
        system=before.get("system"),
        max_length=sys.maxsize,  # the base model's own limit is enough: nothing is trained
    )


def _check_settings(settings: dict[str, Any], folder: Path) -> None:
    """Raise `UserError` for settings beside an adapter that no run has written."""
    task, evaluation = settings.get("task", {}), settings.get("evaluation", {})
    check_template(task.get("prompt") or "{text}", task.get("target") or " {answer}")
    stop = evaluation.get("stop") or [] if isinstance(evaluation, dict) else None
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise UserError(f"{folder}: evaluation.stop in its run's config.json is no list of texts")
    most = evaluation.get("max_new_tokens")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise UserError(f"{folder}: evaluation.max_new_tokens in its run's config.json is {most}; expected 1 or more")


def _some(ids: list[int]) -> list[int]:
    if not ids:
        raise UserError("the prompt tokenizes to nothing")
    return ids


def _bytes_of(states: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> int:
    return sum(tensor.nbytes for pair in states for tensor in pair)
