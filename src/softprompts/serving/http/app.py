"""The server's routes."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import softprompts
from softprompts.config.tools import ServeConfig
from softprompts.errors import short
from softprompts.serving.batch import Batch
from softprompts.serving.http import faults
from softprompts.serving.http.faults import ApiError, KeyGuard, Limits, read_keys
from softprompts.serving.http.generation import Generation, Job
from softprompts.serving.http.meters import Metered, Meters
from softprompts.serving.http.protocol import (
    AdapterRequest,
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    OutcomeRequest,
    Sampled,
)
from softprompts.serving.http.replies import Reply, events, unless_left, whole
from softprompts.serving.http.service import Service
from softprompts.serving.prompts import Prompts
from softprompts.serving.scheduler import Scheduler
from softprompts.serving.split import Splits
from softprompts.serving.tasks import ServedTask, Tasks

import torch
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

PAGE = {
    "": ("index.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}
PROBES = frozenset({"/health", "/ready", "/metrics"})  # answered with any number of connections
OPEN = frozenset({"/health", "/ready", *(f"/{name}" for name in PAGE)})  # without a key
REMOVED = "(removed)"  # in metrics: the name of all removed models, whose number is not limited
COMPLETION_TOKENS = 16  # OpenAI's default for completions
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def make_app(tasks: Tasks, config: ServeConfig) -> FastAPI:
    """Return the server's app; its own thread decodes the batch until the app's lifespan ends.

    Raises:
        UserError: the base model cannot be served in batches; the file of keys or the log cannot be used.
    """
    keys = read_keys(config.keys_file) if config.keys_file else []
    batch = Batch(tasks.base, tasks.own_ends)
    splits = Splits(config.split, config.split_log)
    scheduler = Scheduler(batch, config.max_batch_rows, config.max_batch_positions, config.max_waiting)
    service = Service(tasks, Prompts(tasks.tokenizer, tasks.spec), scheduler, config, splits)
    meters = Meters(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        scheduler.close(0)  # all requests have their answers

    app = FastAPI(
        title="Soft prompts",
        version=softprompts.__version__,
        lifespan=lifespan,
        docs_url=None,  # both pages load scripts from other sites
        redoc_url=None,
    )
    app.state.service = service
    faults.add_handlers(app)
    for router in (
        _answers(service, meters),
        _scores(service),
        _models(service, meters),
        _state(service, meters),
        _page(),
    ):
        app.include_router(router)
    app.add_middleware(Limits, most=config.max_body_bytes, seconds=config.client_timeout, open_paths=PROBES)
    if keys:
        app.add_middleware(KeyGuard, keys=keys, open_paths=OPEN)
    app.add_middleware(Metered, meters=meters)
    return app


def _answers(service: Service, meters: Meters) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/completions", response_model=None)
    async def completions(asked: CompletionRequest, request: Request) -> Response | dict[str, Any]:
        """Continue prompts, or columns in the task's template."""
        name = service.splits.choose(asked.model, asked.user)
        task = service.task(name)
        size = len(await request.body())
        prompts = await service.read(lambda: [_ids(service, task, given) for given in _listed(asked)], size)
        most = task.max_new_tokens if asked.columns is not None else COMPLETION_TOKENS
        jobs = [service.job(task, ids, asked, number=number, most=most) for ids in prompts for number in range(asked.n)]
        reply = _reply_of("cmpl", asked, sum(map(len, prompts)))
        return await _reply(reply, jobs, asked, request)

    @router.post("/chat/completions", response_model=None)
    async def chat(asked: ChatRequest, request: Request) -> Response | dict[str, Any]:
        """Answer a conversation; a task with a known run reads one user message, in its template."""
        name = service.splits.choose(asked.model, asked.user)
        task = service.task(name)
        said = [message.as_read() for message in asked.messages]
        ids = await service.read(lambda: service.prompts.chat_ids(task, said), len(await request.body()))
        most = task.max_new_tokens
        jobs = [service.job(task, ids, asked, number=number, most=most) for number in range(asked.n)]
        reply = _reply_of("chatcmpl", asked, len(ids))
        return await _reply(reply, jobs, asked, request)

    async def _reply(reply: Reply, jobs: list[Job], asked: Sampled, request: Request) -> Response | dict[str, Any]:
        started = time.monotonic()
        generation = service.generation(jobs, asked.stream)

        def done(reason: str) -> None:
            _measure(service, meters, reply, generation, user=asked.user, reason=reason, started=started)

        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
            stream = events(reply, generation, usage, done)
            # If the client leaves before the first event, `events` never begins; otherwise this has no effect.
            cancel = BackgroundTask(generation.cancel)
            return StreamingResponse(stream, media_type="text/event-stream", headers=headers, background=cancel)
        return await whole(reply, generation, request, done)

    return router


def _scores(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/classify", response_model=None)
    async def classify(asked: ClassifyRequest, request: Request) -> dict[str, Any]:
        """Score the task's choices, or the request's, by likelihood."""
        started = time.monotonic()
        name = service.splits.choose(asked.model, asked.user)
        task = service.task(name)
        choices = [task.as_target(choice) for choice in asked.choices or task.choices]
        if len(choices) < 2:
            raise ApiError(400, f"choices: {asked.model} has no choices; give two or more", param="choices")
        if len(set(choices)) < len(choices):
            raise ApiError(400, "choices: expected no choice twice", param="choices")
        given: Any = asked.input if asked.input is not None else asked.columns
        listed = given if isinstance(given, list) else [given]
        work = service.scores(task, listed, choices, len(await request.body()))
        rows = [_label(index, choices, scores) for index, scores in enumerate(await unless_left(request, work))]
        made = f"classify-{secrets.token_hex(12)}"
        seconds = round(time.monotonic() - started, 4)
        service.splits.answered(made, asked.model, name, user=asked.user, seconds=seconds, reason="stop")
        return {"id": made, "object": "list", "created": int(time.time()), "model": asked.model, "data": rows}

    @router.post("/outcomes", response_model=None)
    async def outcome(asked: OutcomeRequest) -> dict[str, Any]:
        """Log the outcome of a split's answer, by the id of its reply."""
        if not service.splits.outcome(asked.id, asked.outcome):
            raise ApiError(404, f'no answer of a split has the id "{short(asked.id)}"', param="id")
        return {"id": asked.id, "outcome": asked.outcome}

    return router


def _label(index: int, choices: list[str], scores: list[float]) -> dict[str, Any]:
    """Return the result for one text; scores are log-likelihoods, in nats."""
    names = [choice.strip() for choice in choices]
    return {
        "index": index,
        "label": names[max(range(len(scores)), key=scores.__getitem__)],
        "probs": torch.tensor(scores, dtype=torch.float64).softmax(0).tolist(),
        "num_classes": len(choices),
        "labels": names,
        "log_likelihoods": scores,
    }


def _measure(
    service: Service,
    meters: Meters,
    reply: Reply,
    generation: Generation,
    *,
    user: str | None,
    reason: str,
    started: float,
) -> None:
    task = generation.jobs[0].task
    name = task.name if service.tasks.serves(task) else REMOVED
    meters.tokens.labels(name, "read").inc(reply.prompts)
    meters.tokens.labels(name, "written").inc(generation.written)
    first = None if generation.first is None else round(generation.first - started, 4)
    if first is not None:
        meters.first.labels(name).observe(first)
    facts = {"seconds": round(time.monotonic() - started, 4), "first_token_seconds": first, "reason": reason}
    tokens = {"prompt_tokens": reply.prompts, "completion_tokens": generation.written}
    service.splits.answered(reply.id, reply.model, task.name, user=user, **facts, **tokens)


def _reply_of(kind: str, asked: Sampled, prompts: int) -> Reply:
    name = f"{kind}-{secrets.token_hex(12)}"
    return Reply(name, asked.model, prompts, kind == "chatcmpl", asked.return_token_ids)


def _listed(asked: CompletionRequest) -> list[Any]:
    """Return the prompts of a request: texts, token ids, or columns."""
    given: Any = asked.prompt if asked.prompt is not None else asked.columns
    one = not isinstance(given, list) or isinstance(given[0], int)
    return [given] if one else given


def _ids(service: Service, task: ServedTask, given: str | list[int] | dict[str, Any]) -> list[int]:
    if isinstance(given, list):
        vocabulary = service.prompts.spec.vocabulary
        if vocabulary is not None and (largest := max(given)) >= vocabulary:
            raise ApiError(400, f"prompt: token id {largest} is beyond the {vocabulary} of the model", param="prompt")
        return given
    return service.prompts.raw_ids(given) if isinstance(given, str) else service.prompts.filled_ids(task, given)


def _models(service: Service, meters: Meters) -> APIRouter:
    router = APIRouter(prefix="/v1")

    def made(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": service.started, "owned_by": "softprompts"}

    def split(name: str) -> dict[str, Any]:
        return made(name) | {"split": service.splits.shares[name]}

    def shown(task: ServedTask) -> dict[str, Any]:
        return made(task.name) | {
            "virtual_tokens": task.virtual_tokens,
            "columns": task.columns,
            "choices": [task.as_target(choice) for choice in task.choices],  # as requests for other models need them
            "template": task.template,
            "stop": task.stop,
            "max_new_tokens": task.max_new_tokens,
        }

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """List the model names: the base model, each adapter, each split."""
        splits = [split(name) for name in service.splits.names]
        return {"object": "list", "data": [*map(shown, service.tasks.all), *splits]}

    @router.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """Describe one model name."""
        return split(name) if name in service.splits.shares else shown(service.task(name))

    @router.post("/adapters", status_code=201)
    async def add(asked: AdapterRequest) -> dict[str, Any]:
        """Serve one more adapter from below the served folder."""
        return shown(await service.add(asked.name, asked.path))

    @router.delete("/adapters/{name}")
    async def remove(name: str) -> dict[str, Any]:
        """Remove an adapter; its present requests still get their answers."""
        await service.remove(name)
        meters.forget(name)
        return {"id": name, "object": "model", "deleted": True}

    return router


def _state(service: Service, meters: Meters) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> JSONResponse:
        """Report whether the server works; if not, it should be restarted."""
        return JSONResponse(
            {"status": "ok"} if service.scheduler.alive else {"status": "dead"}, 200 if service.scheduler.alive else 503
        )

    @router.get("/ready")
    async def ready() -> JSONResponse:
        """Report whether the server accepts requests."""
        taking = service.scheduler.alive and not service.draining
        return JSONResponse({"status": "ready" if taking else "not ready"}, 200 if taking else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        """Return all metrics in Prometheus's text format."""
        return Response(meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _page() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    folder = files("softprompts.serving.http") / "page"

    def serve(name: str, kind: str) -> Any:
        content = (folder / name).read_bytes()
        headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "cache-control": "no-cache"}

        async def page() -> Response:
            return Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)

        return page

    for path, (name, kind) in PAGE.items():
        router.get(f"/{path}")(serve(name, kind))
    return router
