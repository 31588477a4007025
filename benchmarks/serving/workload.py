"""What all ways of serving are given: eight tasks with texts of the embedded data, requests, and when they arrive."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softprompts.config.sections import TaskConfig
from softprompts.encoding.encoder import Encoder
from softprompts.tasks.task import Task, load_task

import yaml
from peft import (
    PeftType,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    initialize_kv_prefix_from_text,
)

VIRTUAL = 20  # tokens of every soft prompt
ANSWER = 24  # tokens of every answer: its end tokens do not end it
ROWS = 12  # texts of each task


@dataclass(frozen=True)
class ServedTask:
    """A task of the benchmark: rows of an embedded task, and the kind of its soft prompt."""

    dataset: str
    where: dict[str, list[str]]
    kind: PeftType


TASKS = {
    "movies": ServedTask("sentiment", {"domain": ["movies"]}, PeftType.PROMPT_TUNING),
    "tweets": ServedTask("sentiment", {"domain": ["tweets"]}, PeftType.PREFIX_TUNING),
    "home-en": ServedTask("home_commands", {"language": ["en"]}, PeftType.PROMPT_TUNING),
    "home-de": ServedTask("home_commands", {"language": ["de"]}, PeftType.PREFIX_TUNING),
    "home-fr": ServedTask("home_commands", {"language": ["fr"]}, PeftType.PROMPT_TUNING),
    "home-es": ServedTask("home_commands", {"language": ["es"]}, PeftType.PREFIX_TUNING),
    "numpy": ServedTask("docstrings", {"library": ["numpy"]}, PeftType.PROMPT_TUNING),
    "pandas": ServedTask("docstrings", {"library": ["pandas"]}, PeftType.PREFIX_TUNING),
}


def rows_of(task: ServedTask) -> Task:
    """Return the rows of a task, as its shipped recipe reads them."""
    file = Path("configs", task.dataset, "prompt_tuning.yaml")
    config = yaml.safe_load(file.read_text(encoding="utf-8"))["task"]
    return load_task(TaskConfig(**config | {"where": task.where, "max_rows": {"test": ROWS}}))


def save_adapters(base: Any, tokenizer: Any, folder: Path) -> None:
    """Write a stock PEFT adapter for each task; it starts from solved rows of the task and is not trained."""
    for name, task in TASKS.items():
        if (folder / name).is_dir():
            continue
        text = "\n".join(row.prompt + row.target for row in rows_of(task).splits["train"][:8])
        if task.kind == PeftType.PROMPT_TUNING:
            config = PromptTuningConfig(
                task_type="CAUSAL_LM",
                num_virtual_tokens=VIRTUAL,
                prompt_tuning_init="TEXT",
                prompt_tuning_init_text=text,
                tokenizer_name_or_path=base.name_or_path,
            )
            model = get_peft_model(base, config)
        else:
            model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL))
            initialize_kv_prefix_from_text(model, tokenizer, text=text, use_chat_template=False)
        model.save_pretrained(str(folder / name))


@dataclass(frozen=True)
class Request:
    """A text's token ids, and the task that it is for."""

    task: str
    ids: tuple[int, ...]


def all_requests(tokenizer: Any) -> list[Request]:
    """Return each text of each task once."""
    encoder = Encoder(tokenizer, ("The quick brown fox.", " jumps\nover 12 lazy dogs!"))
    found = []
    for name, task in TASKS.items():
        texts = [row.prompt for row in rows_of(task).splits["test"]]
        found += [Request(name, tuple(ids)) for ids in encoder.open_ids(texts)]
    return found


def drawn(requests: Sequence[Request], count: int, seed: int) -> list[Request]:
    """Return requests in a random order, each as often as any other, or once less."""
    order = random.Random(seed)
    found: list[Request] = []
    while len(found) < count:
        found += order.sample(requests, len(requests))
    return found[:count]


@dataclass
class Served:
    """A request on its way: seconds since the start of the load; tokens of the answer."""

    request: Request
    arrived: float
    first: float = 0.0
    over: float = 0.0
    tokens: list[int] = field(default_factory=list)


class Load:
    """Requests, and when each arrives.

    Args:
        requests: in their order.
        rate: arrivals a second, at random (Poisson); None if clients ask one request after another.
        clients: how many do that.
    """

    def __init__(self, requests: Sequence[Request], *, rate: float | None = None, clients: int = 1) -> None:
        self.requests = list(requests)
        self.served: list[Served] = []
        self._later = deque(self.requests)
        self._coming: deque[Served] = deque()
        if rate is None:
            for _ in range(min(clients, len(self.requests))):
                self._next(0.0)
        else:
            draw, at = random.Random(len(self.requests)), 0.0
            while self._later:
                at += draw.expovariate(rate)
                self._next(at)

    def _next(self, at: float) -> None:
        if self._later:
            self._coming.append(Served(self._later.popleft(), at))

    @property
    def complete(self) -> bool:
        """Whether every request is answered."""
        return len(self.served) == len(self.requests)

    def due(self, now: float) -> list[Served]:
        """Return those that have arrived since the last call."""
        found = []
        while self._coming and self._coming[0].arrived <= now:
            found.append(self._coming.popleft())
        return found

    def pause(self, now: float) -> float | None:
        """Return the seconds until the next one arrives; None if that waits for an answer."""
        return max(0.0, self._coming[0].arrived - now) if self._coming else None

    def finish(self, one: Served) -> None:
        """Count an answer; whoever asked asks again, if this is a load of clients."""
        self.served.append(one)
        self._next(one.over)
