"""The tasks that a server has: a trained soft prompt each, how a text becomes a prompt, and keys and values at need."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompts.adapters.configs import read_config
from softprompts.adapters.loading import find_adapter, load_adapter, run_settings
from softprompts.config.tools import AdapterConfig, InputConfig
from softprompts.encoding.chats import in_chat
from softprompts.encoding.encoder import Encoder
from softprompts.engine.forward import Engine, keys_and_values
from softprompts.engine.kv_cache import States, positions_of
from softprompts.errors import UserError, nearest
from softprompts.evaluation.interactive import own_flags, task_of_texts
from softprompts.models.loading import input_spec

import torch
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SAMPLE = ("The quick brown fox.", " jumps\nover 12 lazy dogs!")  # texts that a tokenizer is tried on


@dataclass(frozen=True, eq=False)
class ServedTask:
    """A soft prompt, and how texts are put behind it.

    name: by which requests ask for it; folder: of the adapter; soft: embeddings (P, H) float32, or keys and values of
    a prefix, or None for the base model itself; settings: those of the run that trained it, empty if unknown.
    """

    name: str
    folder: Path | None
    soft: torch.Tensor | States | None
    settings: dict[str, Any]

    @property
    def virtual_tokens(self) -> int:
        """Positions P that the soft prompt takes."""
        return positions_of(self.soft)

    @property
    def choices(self) -> tuple[str, ...]:
        """What may be answered; empty if answers are written."""
        listed = self.settings.get("task", {}).get("choices")
        words = list(dict.fromkeys(listed.values())) if isinstance(listed, dict) else listed
        return tuple(words) if isinstance(words, list) else ()

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return tuple(self.settings.get("evaluation", {}).get("stop") or ())


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
        self._encoder = Encoder(tokenizer, SAMPLE)
        self._tasks: dict[str, ServedTask] = {"base": ServedTask("base", None, None, {})}
        self._kept: OrderedDict[ServedTask, States] = OrderedDict()

    @property
    def names(self) -> list[str]:
        """All names, in the order in which they came."""
        return list(self._tasks)

    def get(self, name: str) -> ServedTask:
        """Return a task.

        Raises:
            UserError: there is none of that name.
        """
        found = self._tasks.get(name)
        if found is None:
            raise UserError(f'model: "{name}"{nearest(name, self.names)}')
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
        folder = find_adapter(path)
        config = read_config(folder)
        if not config.is_prompt_learning:  # before it is loaded: its layers would stay in the base model
            kind = getattr(config.peft_type, "value", config.peft_type)
            raise UserError(
                f"{folder}: is {kind}: it changes the base model, and requests of several tasks share that; serve "
                "prompt tuning, P-tuning, multitask prompt tuning or prefix tuning"
            )
        model = load_adapter(self.base, AdapterConfig(path=str(folder)))
        engine = Engine(model, self.tokenizer)
        if len(engine.owners) > 1:
            raise UserError(f"{folder}: has {len(engine.owners)} tasks; serve the prompts that its run saved for each")
        with torch.no_grad():
            soft = engine.soft_prompt(0)
        soft = soft.clone() if isinstance(soft, torch.Tensor) else soft
        input_spec(self.base, positions_of(soft))  # room for a text
        self._tasks[name] = ServedTask(name, folder, soft, run_settings(path))
        return self._tasks[name]

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

    def prompt_ids(self, task: ServedTask, text: str, raw: bool = False) -> list[int]:
        """Return the token ids of a text in the template of its task's run, in a chat if rows were one there.

        Args:
            task: whose template it is.
            text: of one's own.
            raw: it is the whole prompt already.

        Raises:
            UserError: no text; a template with several columns; a text that tokenizes to nothing.
        """
        if raw or not task.settings:
            if not text:
                raise UserError("the prompt is empty")
            (ids,) = self._encoder.open_ids([text])
        else:
            with own_flags():
                made = task_of_texts(InputConfig(text=[text]), task.settings)
            prompt = made.splits["test"][0].prompt
            chat = made.config.chat
            texts = [in_chat(made, self.tokenizer, prompt) if chat else prompt]
            (ids,) = self._encoder.ids(texts, special=False) if chat else self._encoder.open_ids(texts)
        if not ids:
            raise UserError("the prompt tokenizes to nothing")
        return ids


def _bytes_of(states: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> int:
    return sum(tensor.nbytes for pair in states for tensor in pair)
