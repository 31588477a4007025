"""Metrics for Prometheus: requests, seconds, tokens, and the sizes of queue and batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from softprompts.serving.http.service import Service

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Meters:
    """The metrics of one server."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_State(service))
        self.requests = Counter(
            "softprompts_requests", "HTTP requests by route and status", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "softprompts_request_seconds", "Seconds of a request", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.first = Histogram(
            "softprompts_first_token_seconds",
            "Seconds until the first token of a request",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "softprompts_tokens", "Tokens read and written, by model", ["model", "kind"], registry=self.registry
        )

    def forget(self, model: str) -> None:
        """Drop the numbers of a removed model."""
        for meter, labels in ((self.first, [model]), (self.tokens, [model, "read"]), (self.tokens, [model, "written"])):
            with suppress(KeyError):  # it had no requests yet
                meter.remove(*labels)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class _State(Collector):
    """The counts of scheduler and tasks, read when the metrics are requested."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        scheduler, tasks = self.service.scheduler, self.service.tasks
        for name, text, value in (
            ("waiting", "Requests in the queue", scheduler.waiting),
            ("running", "Requests in the batch", scheduler.running),
            ("models", "Model names served", len(tasks.names)),
        ):
            yield GaugeMetricFamily(f"softprompts_{name}", text, value)
        for name, text, value in (
            ("steps", "Steps of the batch", scheduler.counts.steps),
            ("batch_tokens", "Tokens written by all steps", scheduler.counts.tokens),
            ("prompts_computed", "Keys and values of soft prompts computed", tasks.computed),
        ):
            yield CounterMetricFamily(f"softprompts_{name}", text, value)
        ends = CounterMetricFamily("softprompts_answers", "Answers by why they are over", labels=["reason"])
        for reason, count in list(scheduler.counts.over.items()):
            ends.add_metric([reason], count)
        yield ends


class Metered:
    """Counts and times the requests of an app."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self.app, self.meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), "499"  # the client left before its answer

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:  # an outer layer answers it
            status = "500"
            raise
        finally:
            # The number of paths that are not routes is not limited.
            route = getattr(scope.get("route"), "path", "other")
            self.meters.requests.labels(route, status).inc()
            self.meters.seconds.labels(route).observe(time.perf_counter() - started)
