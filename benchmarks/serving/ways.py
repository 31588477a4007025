"""Ways to serve the same requests: this project's batches, and stock PEFT's methods."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.serving.loads import Load, Served
from benchmarks.serving.workload import ANSWER, TASKS
from softprompts.engine.forward import keys_and_values
from softprompts.serving.batch import Batch, Row
from softprompts.serving.scheduler import Reason, Scheduler, Ticket
from softprompts.serving.tasks import Tasks

import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

BATCH = 32  # greatest number of rows per batch, in every way with batches


class Way(Protocol):
    """A way that answers all requests of a load."""

    def serve(self, load: Load) -> None:
        """Fill `load.served`."""

    def close(self) -> None:
        """End running threads or processes."""


class Ours:
    """The scheduler and the batch of this project's server.

    reuse: whether the keys and values of a soft prompt are computed once, and not for each request. A prefix consists
    of keys and values, so it is never computed.
    """

    def __init__(self, tasks: Tasks, reuse: bool) -> None:
        self.tasks, self.reuse = tasks, reuse
        self.scheduler = Scheduler(Batch(tasks.base, ()), BATCH, 2**20, 2**20)

    def serve(self, load: Load) -> None:
        """Submit requests as they arrive."""
        over: queue.SimpleQueue[Served] = queue.SimpleQueue()
        start = time.perf_counter()
        while not load.complete:
            now = time.perf_counter() - start
            for one in load.due(now):
                self.scheduler.submit(self._ticket(one, start, over))
            try:
                load.finish(over.get(timeout=load.pause(now)))
            except queue.Empty:
                continue

    def _ticket(self, one: Served, start: float, over: queue.SimpleQueue[Served]) -> Ticket:
        task = self.tasks.get(one.request.task)

        def make_row() -> Row:
            if self.reuse or not isinstance(task.soft, torch.Tensor):
                front = self.tasks.front(task)
            else:
                with torch.inference_mode():
                    front = keys_and_values(self.tasks.base, task.soft)
            return Row(one.request.ids, front, ANSWER)

        def heard(_: Row) -> bool:
            one.first = one.first or time.perf_counter() - start
            return False

        def ended(reason: Reason) -> None:
            assert reason == "length", reason
            assert ticket.row is not None, "it has joined"
            one.over, one.tokens = time.perf_counter() - start, ticket.row.written
            over.put(one)

        ticket = Ticket(make_row, task.virtual_tokens + len(one.request.ids) + ANSWER - 1, heard, ended)
        return ticket

    def close(self) -> None:
        """End the decoding thread."""
        self.scheduler.close(0)


class First(BaseStreamer):
    """Records when `generate` has the first token of its rows."""

    def __init__(self) -> None:
        self.calls = 0
        self.at = 0.0

    def put(self, value: torch.Tensor) -> None:
        """Count the calls; the first call has the prompts."""
        self.calls += 1
        if self.calls == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        """Do nothing."""


class Generating:
    """PEFT's `generate` for waiting requests, one call after another."""

    def serve(self, load: Load) -> None:
        """Answer waiting requests, in calls that `pick` chooses."""
        start = time.perf_counter()
        waiting: list[Served] = []
        while not load.complete:
            now = time.perf_counter() - start
            waiting += load.due(now)
            if not waiting:
                time.sleep(load.pause(now) or 0.0)
                continue
            chosen = self.pick(waiting)
            waiting = [one for one in waiting if one not in chosen]
            first = First()
            with torch.inference_mode():
                answers = self.generate(chosen, first)
            over = time.perf_counter() - start
            for one, tokens in zip(chosen, answers, strict=True):
                one.first, one.over, one.tokens = first.at - start, over, tokens
                load.finish(one)

    def pick(self, waiting: Sequence[Served]) -> list[Served]:
        """Return the requests of the next call."""
        raise NotImplementedError

    def generate(self, chosen: Sequence[Served], first: First) -> list[list[int]]:
        """Return the answers to requests in one call."""
        raise NotImplementedError

    def close(self) -> None:
        """Do nothing, because no thread or process runs."""


class Switching(Generating):
    """Soft prompts, one request at a time, the adapter switched for each."""

    def __init__(self, base: Any, folder: Path) -> None:
        # PEFT accepts soft prompts of only one kind in a model.
        self.models: dict[PeftType, PeftModel] = {}
        for name, task in TASKS.items():
            if task.kind in self.models:
                self.models[task.kind].load_adapter(str(folder / name), name)
            else:
                self.models[task.kind] = PeftModel.from_pretrained(base, str(folder / name), name)

    def pick(self, waiting: Sequence[Served]) -> list[Served]:
        """Return the request that has waited longest."""
        return list(waiting[:1])

    def generate(self, chosen: Sequence[Served], first: First) -> list[list[int]]:
        """Return the answers to requests of one task."""
        name = chosen[0].request.task
        model = self.models[TASKS[name].kind]
        model.set_adapter(name)
        return generated(model, chosen, first)


class Grouped(Switching):
    """The same, but one call answers all waiting requests for the task of the oldest one."""

    def pick(self, waiting: Sequence[Served]) -> list[Served]:
        """Return requests of one task."""
        name = waiting[0].request.task
        return [one for one in waiting if one.request.task == name][:BATCH]


class MixedLora(Generating):
    """LoRA of rank 8 in all linear layers, requests of all tasks in one batch by PEFT's `adapter_names`."""

    def __init__(self, base: Any) -> None:
        torch.manual_seed(0)
        names = list(TASKS)
        config = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear", init_lora_weights=False)
        self.model = get_peft_model(base, config, names[0])
        for name in names[1:]:
            self.model.add_adapter(name, config)
        self.model.eval()

    def pick(self, waiting: Sequence[Served]) -> list[Served]:
        """Return the requests that have waited longest."""
        return list(waiting[:BATCH])

    def generate(self, chosen: Sequence[Served], first: First) -> list[list[int]]:
        """Return the answers to requests of any tasks."""
        return generated(self.model, chosen, first, adapter_names=[one.request.task for one in chosen])


def generated(model: Any, chosen: Sequence[Served], first: First, **more: Any) -> list[list[int]]:
    """Return greedy answers of `ANSWER` tokens each; prompts are padded on the left."""
    width = max(len(one.request.ids) for one in chosen)
    ids = torch.zeros(len(chosen), width, dtype=torch.long)
    mask = torch.zeros(len(chosen), width, dtype=torch.long)
    for row, one in enumerate(chosen):
        ids[row, width - len(one.request.ids) :] = torch.tensor(one.request.ids)
        mask[row, width - len(one.request.ids) :] = 1
    settings = GenerationConfig(do_sample=False, max_new_tokens=ANSWER, pad_token_id=0)
    found = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, streamer=first, **more)
    answers: list[list[int]] = found[:, width:].tolist()
    assert {len(answer) for answer in answers} == {ANSWER}, "all ways write as many tokens"
    return answers
