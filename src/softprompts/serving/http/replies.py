"""Answers in OpenAI's formats, whole or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from softprompts.serving.http.faults import ApiError
from softprompts.serving.http.generation import PARTIAL, Generation, Job, Piece, Token

from starlette.requests import Request

T = TypeVar("T")
# Called once, with the reason why the answers have ended, or an error's code.
Done = Callable[[str], None]


@dataclass
class Reply:
    """The fields that all parts of a reply repeat, and the format of each part.

    model: the requested name; prompts: number of tokens of all prompts; chat: whether the request is a chat; ids:
    whether the reply includes token ids.
    """

    id: str
    model: str
    prompts: int
    chat: bool
    ids: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, streamed: bool = False) -> dict[str, Any]:
        """Return the first fields of every part."""
        kind = ("chat.completion" + ".chunk" * streamed) if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def usage(self, written: int) -> dict[str, int]:
        """Return the counts of tokens, without virtual tokens, which are not the client's."""
        return {
            "prompt_tokens": self.prompts,
            "completion_tokens": written,
            "total_tokens": self.prompts + written,
        }

    def whole(self, answers: Sequence[Piece], jobs: Sequence[Job], written: int) -> dict[str, Any]:
        """Return a whole reply, from a piece and a job per answer, and the number of tokens written for all."""
        choices = []
        for piece, job in zip(answers, jobs, strict=True):
            said = {"message": {"role": "assistant", "content": piece.text}} if self.chat else {"text": piece.text}
            choices.append(self._choice(piece, job, said, first=True))
        return {**self.head(), **self._of_chat(jobs[0]), "choices": choices, "usage": self.usage(written)}

    def part(self, piece: Piece, job: Job, first: bool) -> dict[str, Any]:
        """Return an event of a stream, with a new part of one answer; `first` is true for the answer's first event."""
        role = {"role": "assistant"} if first else {}
        said = {"delta": {**role, "content": piece.text}} if self.chat else {"text": piece.text}
        own = self._of_chat(job) if first else {}
        return {**self.head(streamed=True), **own, "choices": [self._choice(piece, job, said, first)]}

    def _choice(self, piece: Piece, job: Job, said: dict[str, Any], first: bool) -> dict[str, Any]:
        logprobs = None if job.logprobs is None else self._logprobs(piece.tokens)
        made = {"index": piece.index, **said, "logprobs": logprobs, "finish_reason": piece.reason}
        if self.ids:
            made["token_ids"] = piece.ids
            if first and not self.chat:
                made["prompt_token_ids"] = list(job.ids)
        return made

    def _of_chat(self, job: Job) -> dict[str, Any]:
        """Return the ids of a chat's prompt at vLLM's place for them; they are the same for all answers."""
        return {"prompt_token_ids": list(job.ids)} if self.ids and self.chat else {}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        if self.chat:
            return {"content": [_entry(t.text, t.logprob) | {"top_logprobs": _entries(t.likeliest)} for t in tokens]}
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            # If two tokens have the same text, the likelier one counts.
            "top_logprobs": [dict(reversed(token.likeliest)) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }


def _entry(text: str, logprob: float) -> dict[str, Any]:
    # The bytes of half a character are not known here.
    return {"token": text, "logprob": logprob, "bytes": None if PARTIAL in text else list(text.encode())}


def _entries(likeliest: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [_entry(text, logprob) for text, logprob in likeliest]


async def whole(reply: Reply, generation: Generation, request: Request, done: Done) -> dict[str, Any]:
    """Return all answers when they have ended; cancel them if the client leaves.

    Raises:
        ApiError: an answer ended by an error here, or by its time limit.
    """
    pieces: list[list[Piece]] = [[] for _ in generation.jobs]

    async def collect() -> list[Piece]:
        async for piece in generation.pieces():
            pieces[piece.index].append(piece)
        return [_joined(own) for own in pieces]

    reason = "cancelled"
    try:
        answers = await unless_left(request, collect())
        reason = _worst([str(answer.reason) for answer in answers])
    finally:
        if reason == "cancelled":
            generation.cancel()
        done(reason)
    if fault := fault_of(reason):
        raise fault
    return reply.whole(answers, generation.jobs, generation.written)


def _joined(pieces: Sequence[Piece]) -> Piece:
    """Return all pieces of an answer as one."""
    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    ids = [number for piece in pieces for number in piece.ids]
    return Piece(pieces[0].index, text, tokens, ids, pieces[-1].reason)


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of some work; cancel it if the client leaves.

    Raises:
        ApiError: the client has left.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has left")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)


async def events(reply: Reply, generation: Generation, usage: bool, done: Done) -> AsyncIterator[str]:
    """Yield the events of a stream; cancel the answers if the client leaves."""
    reasons, fault = [""] * len(generation.jobs), None
    begun: set[int] = set()
    try:
        async for piece in generation.pieces():
            if fault := fault_of(piece.reason or ""):
                reasons = [piece.reason or ""]
                yield _event(fault.body())
                return
            reasons[piece.index] = piece.reason or ""
            part = reply.part(piece, generation.jobs[piece.index], piece.index not in begun)
            begun.add(piece.index)
            yield _event(part)
        if usage:
            yield _event({**reply.head(streamed=True), "choices": [], "usage": reply.usage(generation.written)})
        yield "data: [DONE]\n\n"
    finally:
        if fault or not all(reasons):
            generation.cancel()
        done(_worst(reasons) if all(reasons) else "cancelled")


def _event(body: dict[str, Any]) -> str:
    # In ASCII, because clients that split a stream by Python's `splitlines` would also split at U+2028 and U+0085.
    return f"data: {json.dumps(body)}\n\n"


def fault_of(reason: str) -> ApiError | None:
    """Return the error of an answer that is not complete; None for a complete one."""
    if reason == "timeout":
        return ApiError(504, "the answer was not complete in time; ask for fewer tokens", code="timeout")
    if reason == "cancelled":
        return ApiError(503, "the server is being stopped", code="stopping", wait=1)
    if reason == "error":
        return ApiError(500, "the server failed; see its log")
    return None


def _worst(reasons: Sequence[str]) -> str:
    return next((reason for reason in reasons if fault_of(reason)), reasons[0])
