"""Runs the app until a signal comes."""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from softprompts.config.tools import ServeConfig
from softprompts.errors import UserError
from softprompts.serving.http.app import make_app
from softprompts.serving.http.service import Service
from softprompts.serving.tasks import Tasks
from softprompts.system.signals import collected_signals

import uvicorn

LOG = logging.getLogger("softprompts")
# Longer than clients and proxies keep idle connections, some 60 s at most: else a request may meet one that is closed.
KEEP_ALIVE = 75
TELLING = 2  # seconds to tell clients that their answers were cut off


class _Server(uvicorn.Server):
    """Ends in good order at SIGINT or SIGTERM; a second one does not wait for the requests that run.

    Once `drain` seconds are over, answers that are not complete end with an error: their clients hear of it.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain: float) -> None:
        super().__init__(config)
        self.service, self.drain = service, drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals within this context, and raise none of them again at its end, as uvicorn would."""

        def stop(_: int) -> None:
            self.force_exit, self.should_exit = self.should_exit, True
            if not self.service.stopping:
                self.service.stopping = True
                timer = threading.Timer(self.drain, self.service.scheduler.close, [0.0])
                timer.daemon = True
                timer.start()

        with collected_signals(stop):
            yield


def run_server(tasks: Tasks, config: ServeConfig) -> None:
    """Answer requests until SIGINT or SIGTERM.

    Raises:
        UserError: an address that cannot be listened at; what `make_app` refuses.
    """
    listening = _listen(config)
    app = make_app(tasks, config)
    port = listening.getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    LOG.info(f"serving {', '.join([*tasks.names, *config.split])} at http://{host}:{port}")
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(config.drain) + TELLING,
    )
    _Server(settings, app.state.service, config.drain).run(sockets=[listening])
    LOG.info("stopped")


def _listen(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"serve.port: cannot listen at {config.host}:{config.port}: {reason}") from None
