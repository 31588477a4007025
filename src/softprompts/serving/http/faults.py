"""Errors in OpenAI's format, and the checks before each request: its API key, and the limits of its body."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, nearest, short
from softprompts.serving.http.protocol import FIELDS
from softprompts.serving.scheduler import QueueFullError

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger(__name__)
CROWDED = "crowded"  # marks requests on a connection beyond `serve.max_connections`
KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class ApiError(Exception):
    """An error reply, with another status than 200.

    status: HTTP status; message: one line; code and param: OpenAI's names of the error and of the wrong field; wait:
    seconds until the client may try again; close: whether the connection closes after the reply.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        wait: float = 0.0,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.wait, self.close = wait, close

    def body(self) -> dict[str, Any]:
        """Return the error in the format of OpenAI's clients."""
        kind = KINDS.get(self.status, "rate_limit_error" if self.status == 429 else "server_error")
        kind = "invalid_request_error" if 400 <= self.status < 500 and self.status not in (*KINDS, 429) else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the HTTP response."""
        headers = {"retry-after": str(math.ceil(self.wait))} if self.wait else {}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.close:
            headers["connection"] = "close"
        # In ASCII, because a message may quote half a character, which is not UTF-8.
        return Response(json.dumps(self.body()), self.status, headers, "application/json")


def from_user_error(error: UserError) -> ApiError:
    """Return a 400 with the same message, and with the wrong field if the error names one."""
    return ApiError(400, str(error), param=error.key or None)


def from_full_queue(error: QueueFullError, draining: bool) -> ApiError:
    """Return a 429 with the time until the next try; a 503 if the server is stopping."""
    if draining:
        return ApiError(503, "the server is being stopped", code="stopping", wait=error.seconds)
    return ApiError(429, str(error), code="queue_full", wait=error.seconds)


def too_slow(seconds: float) -> ApiError:
    """Return a 408 for a request that is not complete in time; its connection is closed."""
    return ApiError(408, f"the request was not complete within {seconds:g} s", code="too_slow", close=True)


def add_handlers(app: FastAPI) -> None:
    """Give every error of an app OpenAI's format."""

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _explained(error).response()

    async def plain(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return ApiError(error.status_code, str(error.detail)).response()

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def user(_: Request, error: Exception) -> Response:
        assert isinstance(error, UserError)
        return from_user_error(error).response()

    async def unknown(_: Request, error: Exception) -> Response:
        LOG.error("a request failed", exc_info=error)
        return ApiError(500, "the server failed; see its log").response()

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(ApiError, ours)
    app.add_exception_handler(UserError, user)
    app.add_exception_handler(Exception, unknown)


def _explained(error: RequestValidationError) -> ApiError:
    """Return the first error of a body; for an unknown field, with the nearest known one."""
    first: Any = error.errors()[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    field = ".".join(part for part in place if not part.startswith(("function-", "constrained-", "list[")))
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f'unknown field "{short(place[-1])}"{nearest(place[-1], FIELDS)}', param=short(field))
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{short(field)}: {message}" if field else message, param=short(field) or None)


class KeyGuard:
    """Accepts only requests with a known API key, and requests for `open_paths`."""

    def __init__(self, app: ASGIApp, keys: Collection[str], open_paths: Collection[str]) -> None:
        self.app, self.open_paths = app, open_paths
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self.open_paths:
            given = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
            kind, _, key = given.partition(b" ")
            digest = hashlib.sha256(key.strip()).digest()
            # Each key is compared, in constant time, so that the duration reveals nothing about a key.
            known = [hmac.compare_digest(digest, one) for one in self.digests]
            if kind.lower() != b"bearer" or not any(known):
                error = ApiError(401, "expected a known API key as `Authorization: Bearer KEY`", code="invalid_api_key")
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Limits:
    """Reads the body of each request first, and refuses requests beyond the server's limits.

    Args:
        app: the app that gets accepted requests.
        most: greatest number of bytes of a body.
        seconds: time that a client has to send it.
        open_paths: paths that are also served on a connection beyond the limit, see `Connection`.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float, open_paths: Collection[str]) -> None:
        self.app, self.most, self.seconds, self.open_paths = app, most, seconds, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await self._body(scope, receive)
            # The body is read first, because a client that still sends would not read the error.
            if CROWDED in scope.get("state", {}) and scope["path"] not in self.open_paths:
                raise ApiError(429, "too many connections are open", code="too_many_connections", wait=1, close=True)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        if body is None:
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, replay, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body of a request; None if the client has left.

        Raises:
            ApiError: the body is too large, or arrives too slowly.
        """
        announced = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self.seconds):
                while more:
                    if len(body) > self.most or (announced.isdigit() and int(announced) > self.most):
                        raise ApiError(413, f"the body is larger than {self.most} bytes")
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise too_slow(self.seconds) from None
        return bytes(body)


def read_keys(path: str) -> list[str]:
    """Return the API keys of a file, one per line, without empty lines and lines that begin with #.

    Raises:
        UserError: no such file; no key in it; a key has fewer than 16 characters, or spaces.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()  # editors may write a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"serve.keys_file: cannot read {path}: {reason}") from None
    keys = []
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key) < 16 or len(key.split()) != 1:
            raise UserError(f"serve.keys_file: {path}, line {number}: expected 16 or more characters without a space")
        keys.append(key)
    if not keys:
        raise UserError(f"serve.keys_file: {path} contains no key")
    return keys
