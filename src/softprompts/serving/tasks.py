"""The tasks of a server: one trained soft prompt per task, with keys and values that are computed when needed."""

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
from softprompts.encoding.tokenization import end_of_answer
from softprompts.engine.build import check_causal, check_embeddings
from softprompts.engine.forward import Engine, keys_and_values
from softprompts.engine.kv_cache import States, positions_of
from softprompts.errors import UserError, listed, nearest, settings_named, short, warn
from softprompts.evaluation.interactive import as_target, choices_of_run
from softprompts.export.kv_cache.writer import states_of
from softprompts.models.loading import input_spec
from softprompts.serving.batch import check_base
from softprompts.tasks.task import Task
from softprompts.tasks.templates import check_characters, check_template

import torch
from peft import PeftType
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

READ = range(8)  # token ids of the checks of a base model
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, eq=False)
class ServedTask:
    """A soft prompt, and the row format of its run.

    name: its model name in requests; folder: folder of the adapter; soft: embeddings (P, H) float32, or keys and values
    of a prefix, or None for the base model itself; settings: settings of the run that trained it, empty if unknown;
    ends: token ids that end its answers; end: the token id that follows an answer in training, or None.
    """

    name: str
    folder: Path | None
    soft: torch.Tensor | States | None
    settings: dict[str, Any]
    ends: frozenset[int] = frozenset()
    end: int | None = None

    @property
    def virtual_tokens(self) -> int:
        """Number P of the soft prompt's positions."""
        return positions_of(self.soft)

    @property
    def template(self) -> str:
        """Prompt template of the run, with columns in braces; `{text}` if no run is known."""
        return str(self.settings.get("task", {}).get("prompt") or "{text}")

    @property
    def columns(self) -> list[str]:
        """Columns of the template; a key inside a value is part of the name, as in `translation[en]`."""
        return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(self.template) if name))

    @property
    def choices(self) -> tuple[str, ...]:
        """Answers that are scored by likelihood; empty if answers are generated."""
        return tuple(choices_of_run(self.settings) or ())

    def as_task(self, choices: Sequence[str] = ()) -> Task:
        """Return a task without rows and with the row format of the run."""
        before = self.settings.get("task", {})
        config = TaskConfig(
            prompt=self.template,
            target=before.get("target") or " {answer}",
            chat=bool(before.get("chat")),
            system=before.get("system"),
            max_length=sys.maxsize,  # the base model's own limit is enough without training
        )
        return Task("request", {}, tuple(choices) or None, (), "yours", config)

    def as_target(self, choice: str) -> str:
        """Return a choice with the white space that the run's target template puts before a word."""
        return as_target(choice, str(self.settings.get("task", {}).get("target") or ""))

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

    Adapters are read with all the checks of `load_adapter`. Only their learned values are kept, without PEFT's wrapper.
    Keys and values of embeddings are computed when a request first needs them, and the least recently used are
    dropped. A thousand tasks thus need hardly more memory than one.

    While a forward pass of the base model runs in another thread, only `get`, `names`, `all`, `serves` and `put` may be
    called, because loading an adapter runs it on the base model.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        cache_bytes: int = 2**28,
        *,
        any_base: bool = False,
    ) -> None:
        """Begin with the base model alone, under the name `base`.

        Args:
            base: a decoder.
            tokenizer: its tokenizer.
            cache_bytes: most memory for keys and values of prompts.
            any_base: accept adapters that were trained on a base model of another name.

        Raises:
            UserError: the base model cannot be served in batches; `check_causal` refuses it.
        """
        check_base(base)
        check_causal(base, READ)
        self.base, self.tokenizer, self.cache_bytes, self.any_base = base, tokenizer, cache_bytes, any_base
        self._takes_embeddings = False  # until it was checked; adapters of keys and values do not need it
        self.computed = 0  # number of computed keys and values, for the metrics
        self.spec = input_spec(base)
        self.own_ends = frozenset(Engine(base, tokenizer).ends)
        self._tasks = {"base": self._with_end(ServedTask("base", None, None, {}))}
        self._kept: OrderedDict[ServedTask, tuple[States, int]] = OrderedDict()  # each with its bytes
        words: Any = base.get_input_embeddings()
        self._table_of_words = words.weight
        ((keys, _), *_) = keys_and_values(base, self._table_of_words[:1])
        self._groups = keys.shape[1], keys.shape[3]  # of heads that share keys, and the size of a head

    @property
    def names(self) -> list[str]:
        """All names, in the order of their addition."""
        return list(self._tasks)

    @property
    def all(self) -> list[ServedTask]:
        """All tasks, in the order of their addition."""
        return list(self._tasks.values())

    def get(self, name: str) -> ServedTask:
        """Return a task by its name.

        Raises:
            UserError: no task has this name.
        """
        found = self._tasks.get(name)
        if found is None:
            raise UserError(f'model: "{short(name)}"{nearest(name, self.names)}')
        return found

    def serves(self, task: ServedTask) -> bool:
        """Return whether this task is still served, and not another one of the same name."""
        return self._tasks.get(task.name) is task

    def add(self, name: str, path: str) -> ServedTask:
        """Read an adapter and serve it from now on; arguments and errors as for `read`."""
        served = self.read(name, path)
        self.put(served)
        return served

    def put(self, task: ServedTask) -> None:
        """Serve a task from now on, under its name.

        Raises:
            UserError: the name is taken.
        """
        self._check_free(task.name)
        self._tasks[task.name] = task

    def _check_free(self, name: str) -> None:
        if name in self._tasks:
            advice = "choose another name" if name == "base" else "remove it first, or choose another name"
            raise UserError(f'"{name}" is served already: {advice}', key="name")

    def read(self, name: str, path: str) -> ServedTask:
        """Read an adapter, and return its task, which is not served yet.

        Args:
            name: letters, digits, `.`, `_` and `-`, at most 64.
            path: folder of the adapter, or of the run that made it.

        Raises:
            UserError: the name is taken or not allowed; `load_adapter` refuses the adapter; the adapter changes the
                base model's weights, or has several tasks; `check_embeddings` refuses the base model.
        """
        if not NAME.fullmatch(name):
            raise UserError(f"expected at most 64 letters, digits, '.', '_' and '-', found {short(name)!r}", key="name")
        self._check_free(name)
        try:
            with settings_named({"adapter.any_base": "serve.any_base"}):
                return self._read_task(name, path)
        except UserError:
            raise
        except Exception as error:  # the files may be from a stranger, with values of any type
            raise UserError(f"adapter.path: {path} cannot be read: {first_line(error)}") from None

    def _read_task(self, name: str, path: str) -> ServedTask:
        folder = find_adapter(path)
        config = read_config(folder)
        if not config.is_prompt_learning:  # before it is loaded: its layers would stay in the base model
            kind = getattr(config.peft_type, "value", config.peft_type)
            raise UserError(
                f"{folder}: is {kind}, which changes the base model that all tasks share; serve prompt tuning, "
                "P-tuning, multitask prompt tuning or prefix tuning"
            )
        soft = self._read(folder, config)
        if isinstance(soft, torch.Tensor) and not self._takes_embeddings:
            check_embeddings(self.base, READ)
            self._takes_embeddings = True
        input_spec(self.base, positions_of(soft))  # room for a text
        settings = run_settings(path)
        if not settings:
            warn(
                f"{name}: no run is known for {path}, so texts are read without the prompt template of its training; "
                "keep the adapter in the folder of its run"
            )
        _check_settings(settings, folder)
        return self._with_end(ServedTask(name, folder, soft, settings))

    def _with_end(self, task: ServedTask) -> ServedTask:
        """Return a task with the token that ends its answers; a known run has taught this token."""
        end = end_of_answer(task.as_task(), self.tokenizer)
        taught = {end} if task.settings and end is not None else ()
        return replace(task, end=end, ends=self.own_ends.union(taught))

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
        model = load_adapter(self.base, self._config(folder))
        engine = Engine(model, self.tokenizer)
        if len(engine.owners) > 1:
            raise UserError(f"{folder}: has {len(engine.owners)} tasks; serve the prompts that its run saved for each")
        with torch.no_grad():
            soft = engine.soft_prompt(0)
        assert soft is not None, "it is prompt learning"
        return soft.clone() if isinstance(soft, torch.Tensor) else soft

    def _config(self, folder: Path) -> AdapterConfig:
        return AdapterConfig(path=str(folder), any_base=self.any_base)

    def _table(self, folder: Path, config: Any, width: int) -> torch.Tensor:
        """Return the only table of an adapter's file, (P, width), with a thousandth of the work of PEFT's model.

        Raises:
            UserError: as `read_values`; the table has another shape or type; the file has further tensors.
        """
        tensors = read_values(self.base, config, folder=folder, config=self._config(folder))
        values = tensors.pop(VALUES)
        if tensors:
            raise UserError(
                f"{folder}: contains {listed(tensors)} in addition to its soft prompt; they would change the base model"
            )
        if values.shape != (config.num_virtual_tokens, width) or not values.is_floating_point():
            shape = " x ".join(map(str, values.shape))
            raise UserError(
                f"{folder}: expected {config.num_virtual_tokens} x {width} floating-point numbers, found {shape} of "
                f"{values.dtype}"
            )
        return values.to(self.base.device)

    def remove(self, name: str) -> None:
        """Remove a task; requests that run keep its soft prompt.

        Raises:
            UserError: no task has this name, or it is the base model.
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
        if task in self._kept:
            self._kept.move_to_end(task)
            return self._kept[task][0]
        states = keys_and_values(self.base, task.soft.to(self.base.dtype))
        self.computed += 1
        if self.serves(task):  # otherwise it was removed while its last requests waited
            self._kept[task] = states, sum(tensor.nbytes for pair in states for tensor in pair)
        while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self.cache_bytes:
            self._kept.popitem(last=False)
        return states


def _check_settings(settings: dict[str, Any], folder: Path) -> None:
    """Raise `UserError` for settings next to an adapter that no run can have written."""
    task, stop = settings.get("task", {}), settings.get("evaluation", {}).get("stop") or []
    check_template(task.get("prompt") or "{text}", task.get("target") or " {answer}")
    choices = task.get("choices")
    words = choices.values() if isinstance(choices, dict) else choices if isinstance(choices, list) else []
    for text in (*(task.get(key) or "" for key in ("prompt", "target", "system")), *words, *stop):
        check_characters(f"{folder}: its run's config.json", text)  # otherwise the list of models could not be sent
