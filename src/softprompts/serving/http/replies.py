"""Answers in OpenAI's shapes, whole or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from softprompts.serving.http.faults import ApiError
from softprompts.serving.http.generation import PARTIAL, Generation, Piece, Token

from starlette.requests import Request

# Called once, with the reasons why the answers are over, or an error's code.
Done = Callable[[str], None]


@dataclass
class Reply:
    """What all parts of a reply repeat, and how an answer's part is written.

    model: the name that was asked for; prompts: tokens of all prompts; chat: whether it is a chat's.
    """

    id: str
    model: str
    prompts: int
    chat: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, streamed: bool = False) -> dict[str, Any]:
        """Return what every part begins with."""
        kind = ("chat.completion" + ".chunk" * streamed) if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def usage(self, written: int) -> dict[str, int]:
        """Return the counts of tokens; virtual ones are not counted: they are not the client's."""
        return {
            "prompt_tokens": self.prompts,
            "completion_tokens": written,
            "total_tokens": self.prompts + written,
        }

    def choice(self, index: int, text: str, tokens: Sequence[Token] | None, reason: str | None) -> dict[str, Any]:
        """Return a whole answer."""
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return {"index": index, **said, "logprobs": self._logprobs(tokens), "finish_reason": reason}

    def part(self, piece: Piece, tokens: Sequence[Token] | None, first: bool) -> dict[str, Any]:
        """Return a part of a streamed answer."""
        role = {"role": "assistant"} if first else {}
        said = {"delta": {**role, "content": piece.text}} if self.chat else {"text": piece.text}
        return {"index": piece.index, **said, "logprobs": self._logprobs(tokens), "finish_reason": piece.reason}

    def _logprobs(self, tokens: Sequence[Token] | None) -> dict[str, Any] | None:
        if tokens is None:
            return None
        if self.chat:
            return {"content": [_entry(t.text, t.logprob) | {"top_logprobs": _entries(t.likeliest)} for t in tokens]}
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            # Of tokens with the same text the likelier counts.
            "top_logprobs": [dict(reversed(token.likeliest)) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }


def _entry(text: str, logprob: float) -> dict[str, Any]:
    # Of half a character the bytes are not known here.
    return {"token": text, "logprob": logprob, "bytes": None if PARTIAL in text else list(text.encode())}


def _entries(likeliest: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [_entry(text, logprob) for text, logprob in likeliest]


async def whole(reply: Reply, generation: Generation, request: Request, done: Done) -> dict[str, Any]:
    """Return all answers once they are over; a client that leaves takes them with it.

    Raises:
        ApiError: an answer that ended by a fault here, or by its time.
    """
    texts: list[list[str]] = [[] for _ in generation.jobs]
    tokens: list[list[Token]] = [[] for _ in generation.jobs]
    reasons: list[str] = [""] * len(generation.jobs)

    async def collect() -> None:
        async for piece in generation.pieces():
            texts[piece.index].append(piece.text)
            tokens[piece.index] += piece.tokens
            reasons[piece.index] = piece.reason or reasons[piece.index]

    collecting = asyncio.create_task(collect())
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished = collecting.done()
        if not finished:
            generation.cancel()
        for task in (collecting, leaving):
            task.cancel()
        done(_worst(reasons) if finished else "cancelled")
    if not finished:
        raise ApiError(499, "the client has left")
    if fault := fault_of(_worst(reasons)):
        raise fault
    choices = [
        reply.choice(
            index, "".join(texts[index]), None if job.logprobs is None else tokens[index], finish(reasons[index])
        )
        for index, job in enumerate(generation.jobs)
    ]
    return {**reply.head(), "choices": choices, "usage": reply.usage(generation.written)}


async def _left(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)


async def events(reply: Reply, generation: Generation, usage: bool, done: Done) -> AsyncIterator[str]:
    """Yield the events of a stream; a client that leaves takes the answers with it."""
    reasons, fault = [""] * len(generation.jobs), None
    begun: set[int] = set()
    try:
        async for piece in generation.pieces():
            if fault := fault_of(piece.reason or ""):
                reasons = [piece.reason or ""]
                yield _event(fault.body())
                return
            reasons[piece.index] = piece.reason or ""
            tokens = None if generation.jobs[piece.index].logprobs is None else piece.tokens
            part = reply.part(piece, tokens, piece.index not in begun)
            begun.add(piece.index)
            yield _event({**reply.head(streamed=True), "choices": [part]})
        if usage:
            yield _event({**reply.head(streamed=True), "choices": [], "usage": reply.usage(generation.written)})
        yield "data: [DONE]\n\n"
    finally:
        if fault or not all(reasons):
            generation.cancel()
        done(_worst(reasons) if all(reasons) else "cancelled")


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def finish(reason: str) -> str:
    """Return OpenAI's word for why an answer is over."""
    return "length" if reason == "length" else "stop"


def fault_of(reason: str) -> ApiError | None:
    """Return the error of an answer that ended by none of its own ends; None for one that is whole."""
    if reason == "timeout":
        return ApiError(504, "the answer was not complete in time; ask for fewer tokens", code="timeout")
    if reason == "cancelled":
        return ApiError(503, "the server is being stopped", code="stopping", wait=1)
    if reason == "error":
        return ApiError(500, "the server failed; its log says why")
    return None


def _worst(reasons: Sequence[str]) -> str:
    return next((reason for reason in reasons if fault_of(reason)), reasons[0])
