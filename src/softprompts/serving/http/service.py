"""The shared state of the routes: tasks, scheduler and limits, and the operations of requests on them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from softprompts.adapters.checks import WEIGHTS
from softprompts.adapters.configs import CONFIG as ADAPTER_CONFIG
from softprompts.config.paths import ADAPTER
from softprompts.config.tools import ServeConfig
from softprompts.errors import UserError, nearest, settings_named, short, warn
from softprompts.models.identity.base_model import RECORD
from softprompts.models.loading import max_positions
from softprompts.serving.batch import Sampling
from softprompts.serving.http.faults import ApiError, from_full_queue
from softprompts.serving.http.generation import Generation, Job
from softprompts.serving.http.protocol import ChatRequest, CompletionRequest, Sampled
from softprompts.serving.likelihood import log_likelihoods, parts_of, read_prompt
from softprompts.serving.prompts import Prompts
from softprompts.serving.scheduler import ClosedError, Parts, QueueFullError, Scheduler
from softprompts.serving.split import Splits
from softprompts.serving.tasks import ServedTask, Tasks
from softprompts.system.files import is_folder

T = TypeVar("T")
LARGE = 2**14  # bytes whose tokenization takes milliseconds
MOST_READ = 16  # the choices of one text may need the positions of this number of batches


@dataclass
class Service:
    """One base model, its tasks, their tokenized prompts, and the scheduler.

    started: seconds since the epoch; stopping: whether a signal has arrived.
    """

    tasks: Tasks
    prompts: Prompts
    scheduler: Scheduler
    config: ServeConfig
    splits: Splits
    started: int = field(default_factory=lambda: int(time.time()))
    stopping: bool = False

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self.stopping or self.scheduler.closing or not self.scheduler.alive

    def task(self, name: str) -> ServedTask:
        """Return the task of a model name.

        Raises:
            ApiError: no task has this name; status 404.
        """
        try:
            return self.tasks.get(name)
        except UserError as error:
            raise ApiError(404, str(error), code="model_not_found", param="model") from None

    def job(self, task: ServedTask, ids: list[int], asked: Sampled, *, number: int, most: int | None) -> Job:
        """Return the job for one requested answer.

        Args:
            task: task with the soft prompt.
            ids: token ids of the prompt.
            asked: the request.
            number: number of the answer among those to one prompt; each samples with its own seed.
            most: default of the longest answer, in tokens; None for the greatest possible length.

        Raises:
            ApiError: the answer may exceed the server's limit or the base model's positions.
        """
        limit = self.config.max_new_tokens
        field = "max_completion_tokens" if getattr(asked, "max_completion_tokens", None) else "max_tokens"
        given: int | None = getattr(asked, field)
        if given is not None and given > limit:
            raise ApiError(400, f"{field}: at most {limit} here, found {given}", param=field)
        room = self._room() - task.virtual_tokens - len(ids) + 1  # the model does not read the last written token
        wanted = given or min(limit, most or limit)
        if room < (given or 1):
            raise ApiError(
                400,
                f"{task.virtual_tokens} virtual tokens, {len(ids)} of the prompt and {given or 1} of the answer do not "
                f"fit into {self._room()} positions",
                code="context_length_exceeded",
            )
        seed = secrets.randbits(31) if asked.seed is None else asked.seed
        sampling = Sampling(asked.temperature, asked.top_p, seed + number)
        logprobs = _logprobs(asked)
        return Job(task, ids, min(wanted, room), sampling, asked.stops + task.stop, logprobs)

    def _room(self) -> int:
        positions = max_positions(self.tasks.base)
        own = self.config.max_batch_positions
        return own if positions is None else min(positions, own)

    def generation(self, jobs: list[Job], stream: bool) -> Generation:
        """Put answers into the queue.

        Raises:
            ApiError: the queue has too little room now, with status 429, or even when empty, with status 400.
        """
        if len(jobs) > self.config.max_waiting:
            raise ApiError(400, f"{len(jobs)} answers at once; at most {self.config.max_waiting} here", param="n")
        made = Generation(self.tasks, self.scheduler, jobs, seconds=self.config.timeout, stream=stream)
        try:
            made.start()
        except QueueFullError as error:
            raise from_full_queue(error, self.draining) from None
        return made

    async def read(self, tokenize: Callable[[], T], size: int) -> T:
        """Tokenize texts of `size` bytes; long ones in another thread, so that the event loop continues."""
        return await asyncio.to_thread(tokenize) if size > LARGE else tokenize()

    async def call(self, queue: Callable[[], Future[T]]) -> T:
        """Return the result of work with the base model, which `queue` puts into the scheduler's queue.

        Raises:
            ApiError: the queue is full; the server is being stopped.
        """
        try:
            return await asyncio.wrap_future(queue())
        except QueueFullError as error:
            raise from_full_queue(error, self.draining) from None
        except ClosedError:
            raise ApiError(503, "the server is being stopped", code="stopping", wait=1) from None

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.config.timeout):
                yield
        except TimeoutError:
            raise ApiError(504, f"no answer within {self.config.timeout:g} s", code="timeout") from None

    async def scores(
        self, task: ServedTask, given: Sequence[str | dict[str, Any]], choices: list[str], size: int
    ) -> list[list[float]]:
        """Return the log-likelihood of each choice after each text, in nats.

        Args:
            task: task with the soft prompt.
            given: texts, or columns of the template.
            choices: the choices, with the white space that separates them from a prompt.
            size: greatest number of bytes of a text.
        """
        async with self._in_time():
            return [await self._scores(task, one, choices, size, later=bool(i)) for i, one in enumerate(given)]

    async def _scores(
        self, task: ServedTask, given: str | dict[str, Any], choices: list[str], size: int, *, later: bool
    ) -> list[float]:
        """Return the scores of one text; `later` is whether it follows another text of the same request."""
        read = partial(self.prompts.choice_ids, task, given, choices)
        prompt_ids, choice_ids = await self.read(read, size * len(choices))
        before, longest = task.virtual_tokens + len(prompt_ids), max(map(len, choice_ids))
        if before + longest > self._room():
            raise ApiError(400, "the prompt and its choices are too long", code="context_length_exceeded")
        if longest > 1 and (before + longest) * len(choices) > MOST_READ * self.config.max_batch_positions:
            raise ApiError(400, f"choices: {len(choices)} are too many for such a prompt", param="choices")
        base, tasks = self.tasks.base, self.tasks

        def parts() -> Parts[list[float]]:
            states = read_prompt(base, tasks.front(task), prompt_ids)
            scores: list[float] = []
            for part in parts_of(choice_ids, before, self.config.max_batch_positions - before):
                yield
                scores += log_likelihoods(base, states, prompt_ids[-1], choice_ids[part])
            return scores

        # In one call, because the keys and values of only one prompt may be in memory.
        return await self.call(partial(self.scheduler.call_in_parts, parts(), accepted=later))

    async def add(self, name: str, path: str) -> ServedTask:
        """Serve one more adapter.

        Raises:
            ApiError: no folder is served, or the adapter is not below it; the adapter is refused.
        """
        if self.config.folder is None:
            raise ApiError(403, "set serve.folder: only adapters below it can be added while the server runs")
        allowed = Path(self.config.folder).resolve()
        if not _inside(allowed, allowed / path):
            raise ApiError(403, "path: expected one below serve.folder", param="path")
        if name in self.splits.names:
            raise ApiError(400, f'name: "{name}" is the name of a split', param="name")
        async with self._in_time():
            work = partial(self.tasks.read, name, str(allowed / path))
            task = await self.call(partial(self.scheduler.call, work))
        self.tasks.put(task)  # only here, because after a timeout the client knows of no adapter
        return task

    async def remove(self, name: str) -> None:
        """Remove an adapter.

        Raises:
            ApiError: no adapter has this name; a split needs it; it is the base model.
        """
        if needing := self.splits.needing(name):
            raise ApiError(400, f'"{name}" is part of the split "{needing}"', param="name")

        def work() -> None:
            self.task(name)  # another request may have removed it meanwhile
            self.tasks.remove(name)

        async with self._in_time():
            await self.call(partial(self.scheduler.call, work))


def _logprobs(asked: Sampled) -> int | None:
    """Return the number of likeliest tokens to report per position; None for no log-probabilities."""
    if isinstance(asked, ChatRequest):
        return asked.top_logprobs if asked.logprobs else None
    return asked.logprobs if isinstance(asked, CompletionRequest) else None


def load_tasks(base: Any, tokenizer: Any, config: ServeConfig) -> Tasks:
    """Return the first tasks of a server: the named adapters, and all adapters below a folder that can be served.

    Raises:
        UserError: the base model, or a named adapter, cannot be served; the folder is missing; no adapter is named; a
            split names an adapter that is not served.
    """
    tasks = Tasks(base, tokenizer, config.cache_megabytes * 2**20, any_base=config.any_base)
    for name, path in config.adapters.items():
        key = f"serve.adapters.{short(name)}"
        with settings_named({"adapter.path": key, "name": key}), _keyed(key):
            tasks.add(name, path)
    if config.folder is not None:
        _add_all(tasks, Path(config.folder))
    if len(tasks.names) == 1 and config.folder is None:
        raise UserError("serve.adapters: expected an adapter there, or a folder of adapters in serve.folder")
    for split, shares in config.split.items():
        if split in tasks.names:
            raise UserError(f"serve.split.{split}: an adapter has that name")
        for name in shares:
            if name not in tasks.names:
                raise UserError(f'serve.split.{split}: no adapter "{name}"{nearest(name, tasks.names)}')
    return tasks


@contextmanager
def _keyed(key: str) -> Iterator[None]:
    """Within this context, an error that names no setting names `key`."""
    try:
        yield
    except UserError as error:
        raise (error if error.key else UserError(*error.parts, key=key)) from None


def _inside(root: Path, folder: Path) -> bool:
    """Return whether a folder and the adapter files in it or in its `adapter/` are below a root, links resolved."""
    names = (".", ADAPTER_CONFIG, WEIGHTS, RECORD, "config.json")
    files = [place / name for place in (folder, folder / ADAPTER) for name in names]
    try:
        return all(file.resolve().is_relative_to(root) for file in files)
    except (OSError, ValueError, RuntimeError):  # the name is too long or has a NUL, or links form a circle
        return False


def _add_all(tasks: Tasks, folder: Path) -> None:
    """Serve every adapter below a folder that can be served, and warn about the others with the reason."""
    if not folder.is_dir():
        raise UserError(f"serve.folder: no such folder: {folder}")
    root = folder.resolve()
    found = sorted(root.rglob(ADAPTER_CONFIG))
    for link in sorted(path for path in root.rglob("*") if path.is_symlink() and is_folder(path)):
        warn(f"not served: {link.relative_to(root)}: is a link to a folder; name its adapters in serve.adapters")
    if not found:
        warn(f"serve.folder: no adapter below {folder}")
    for file in found:
        place = file.parent.relative_to(root)
        parts = place.parts[:-1] if place.name == ADAPTER else place.parts
        name = "-".join(parts) or root.name
        try:
            if not _inside(root, file.parent):
                raise UserError(f"{file}: is a link out of serve.folder")
            tasks.add(name, str(file.parent))
        except UserError as error:
            warn(f"not served: {name}: {error}")
