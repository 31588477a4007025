"""Whatever the OpenAPI schema allows, and much that it forbids, is answered without a fault of the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from made_server import make_run, serving
from softprompts.config.tools import ServeConfig

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

pytestmark = pytest.mark.slow
EXAMPLES = 50  # of each route, half of them against the schema
ROUTES = (
    "POST /v1/completions",
    "POST /v1/chat/completions",
    "POST /v1/classify",
    "POST /v1/outcomes",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "POST /v1/adapters",
    "DELETE /v1/adapters/{name}",
    "GET /health",
    "GET /ready",
    "GET /metrics",
)


@pytest.fixture(scope="module")
def schema(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the schema of a server of the tiny model, with an adapter named `small`."""
    folder = tmp_path_factory.mktemp("adapters")
    make_run(tiny_model, folder / "small", 0)
    config = ServeConfig(folder=str(folder), max_new_tokens=4, timeout=20, drain=1)
    with serving(tiny_model, config) as served:
        yield schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def for_a_served_model(case: Any) -> Any:
    """Let most requests name a model that is served: the others get no further than the name."""
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str) and len(case.body["model"]) % 4:
        case.body["model"] = ("small", "base")[len(case.body) % 2]
    return case


def test_every_route_is_tried(schema: Any) -> None:
    assert sorted(ROUTES) == sorted(found.ok().label for found in schema.get_all_operations())


# Nothing is against the schema in a request without a body: a name is any text.
@pytest.mark.parametrize(
    ("route", "mode"),
    [
        *((route, GenerationMode.POSITIVE) for route in ROUTES),
        *((route, GenerationMode.NEGATIVE) for route in ROUTES if route.startswith("POST")),
    ],
)
def test_no_request_is_answered_by_a_fault(schema: Any, route: str, mode: GenerationMode) -> None:
    method, path = route.split()
    operation = schema[path][method]

    @settings(
        max_examples=EXAMPLES // 2,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        for_a_served_model(case).call_and_validate(checks=[not_a_server_error])

    send()
