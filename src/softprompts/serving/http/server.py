"""Run the app until a signal arrives. The number of connections and the time of each client are limited."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from softprompts.config.tools import ServeConfig
from softprompts.errors import UserError, warn
from softprompts.serving.http.app import make_app
from softprompts.serving.http.faults import CROWDED, too_slow
from softprompts.serving.http.service import Service
from softprompts.serving.tasks import Tasks
from softprompts.system.signals import collected_signals

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

LOG = logging.getLogger("softprompts")
# Longer than clients and proxies keep idle connections, about 60 s at most; otherwise a request may use a closed one.
KEEP_ALIVE = 75
TELLING = 2  # seconds to tell clients that their answers were cut off
SPARE = 64  # connections beyond the limit, for probes, and to tell clients that there are too many
FILES = 128  # open files for all other purposes


class Connection(H11Protocol):
    """One connection with time limits for its client.

    uvicorn does not limit the time for the head of a request, or for a client that reads its answer. `faults.Limits`
    limits the time for the body. The base class uses h11, which limits the size of a head.
    """

    most: int  # greatest number of connections that are served
    seconds: float  # time limit of a client

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start. Beyond the limit, requests are refused; beyond the spare connections, the connection is closed."""
        super().connection_made(transport)
        self._head: asyncio.TimerHandle | None = None  # runs while the head of a request is awaited
        self._reading: asyncio.TimerHandle | None = None  # runs while the client must read
        if len(self.connections) > self.most + SPARE:
            transport.abort()
        elif len(self.connections) > self.most:
            self.app_state = {**self.app_state, CROWDED: True}
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time limits."""
        self._stop_waiting_for_head()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request. The time limit ends with the complete head."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting_for_head()
        else:
            self._wait_for_head()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._stop_waiting_for_reader()
        self._reading = self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue to write."""
        super().resume_writing()
        self._stop_waiting_for_reader()

    def _wait_for_head(self) -> None:
        if self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(self.seconds, self._refuse)

    def _stop_waiting_for_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _stop_waiting_for_reader(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _refuse(self) -> None:
        """Answer a request whose head is still incomplete with an error, and close the connection."""
        error = too_slow(self.seconds)
        body = json.dumps(error.body()).encode()
        head = (
            f"HTTP/1.1 {error.status} Request Timeout",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
        )
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()


class Server(uvicorn.Server):
    """Finishes its requests at SIGINT or SIGTERM; after a second signal it does not wait for them.

    After `drain` seconds, incomplete answers end with an error, which their clients get.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain: float) -> None:
        super().__init__(config)
        self.service, self.drain = service, drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals within this context; unlike uvicorn, do not raise them again at its end."""

        def stop(_: int) -> None:
            self.force_exit, self.should_exit = self.should_exit, True
            if not self.service.stopping:
                self.service.stopping = True
                timer = threading.Timer(self.drain, self.service.scheduler.close, [0.0])
                timer.daemon = True
                timer.start()

        if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
            yield
            return
        with collected_signals(stop):
            yield


def make_server(tasks: Tasks, config: ServeConfig) -> Server:
    """Return a server that does not listen yet; its `run` gets the sockets.

    Raises:
        UserError: as `make_app`.
    """
    app = make_app(tasks, config)
    limited = {"most": config.max_connections, "seconds": config.client_timeout}
    settings = uvicorn.Config(
        app,
        http=type("LimitedConnection", (Connection,), limited),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(config.drain) + TELLING,
    )
    return Server(settings, app.state.service, config.drain)


def run_server(tasks: Tasks, config: ServeConfig) -> None:
    """Answer requests until SIGINT or SIGTERM.

    Raises:
        UserError: the server cannot listen at the address; as `make_app`.
    """
    listening = _listen(config)
    _allow_files(config.max_connections + SPARE + FILES)
    server = make_server(tasks, config)
    port = listening.getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    LOG.info(f"serving {', '.join([*tasks.names, *config.split])} at http://{host}:{port}")
    server.run(sockets=[listening])
    LOG.info("stopped")


def _allow_files(count: int) -> None:
    """Let this process open `count` files, because each connection is one. Warn if the system allows fewer."""
    with suppress(ImportError):  # not on Windows
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = resource.RLIM_INFINITY
        if soft == unlimited or soft >= count:
            return
        allowed = count if hard == unlimited else min(count, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
        if soft < count:
            warn(
                f"serve.max_connections: requires {count} open files, but this process may open only {soft}; "
                "raise `ulimit -n`"
            )


def _listen(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"serve.port: cannot listen at {config.host}:{config.port}: {reason}") from None
