"""The numbers of a run that claims are judged by, beside those of paired comparisons."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.grid.settings import Benchmark, Cell
from benchmarks.report.evidence import Measure
from benchmarks.report.tables import cost, metrics_of, percent, points, size, trained_parameters

TEMPERATURE, DRAWS = 0.7, 5
NATS = " nats a token"


def probe(*path: str) -> Callable[[Cell], float | None]:
    """Return what reads a number of a run's probes, None where it was not measured."""

    def read(cell: Cell) -> float | None:
        found = cell.probes
        for key in path[:-1]:
            found = found.get(key) or {}
        value: float | None = found.get(path[-1])
        return value

    return read


def _change(cell: Cell) -> float | None:
    base, attached = (probe("forgetting", "general", key)(cell) for key in ("base", "attached"))
    return None if base is None or attached is None else attached - base


def _read_as_prompt(cell: Cell) -> float | None:
    written, virtual = (probe("latency", key)(cell) for key in ("prompt_tokens", "virtual_tokens"))
    return None if written is None or virtual is None else written + virtual


def drawn(*path: str) -> Callable[[Cell], float | None]:
    """Return what reads a number of answers drawn as the claims say, None where they were drawn otherwise."""

    def read(cell: Cell) -> float | None:
        found = cell.probes.get("sampling") or {}
        as_claimed = (found.get("temperature"), found.get("draws")) == (TEMPERATURE, DRAWS)
        return probe("sampling", *path)(cell) if as_claimed else None

    return read


def _nats(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _whole(value: float) -> str:
    return f"{value:,.0f}"


AGREEMENT = Measure(
    f"agreement of {DRAWS} draws at temperature {TEMPERATURE}", drawn("agreement"), percent, " %", less=False
)
DRAWN = Measure(
    f"exact_match of answers drawn at temperature {TEMPERATURE}",
    drawn("metrics", "exact_match"),
    percent,
    " %",
    less=False,
)
PARAMETERS = Measure("trained parameters", trained_parameters, _whole, exact=True)
SAVED = Measure("saved for the task", cost("adapter_bytes"), size, exact=True)
SECONDS = Measure("time of training", cost("seconds_training"), _whole, " s")
PROCESSOR = Measure("processor time of training", cost("cpu_seconds_training"), _whole, " s")
SPEED = Measure("tokens a second", cost("training_tokens_per_second"), _whole, less=False)
MEMORY = Measure("peak memory", cost("peak_memory_gib"), lambda v: f"{v:.2f}", " GiB")
ENERGY = Measure("energy", cost("energy_kwh"), lambda v: f"{1000 * v:.1f}", " Wh")
GENERAL = Measure("change of loss on general text, attached", _change, _nats, NATS)
PROMPT = Measure("tokens read for a request, virtual ones included", _read_as_prompt, _whole, exact=True)
WRITTEN_TOKENS = Measure("prompt tokens", probe("latency", "prompt_tokens"), _whole, exact=True)
VIRTUAL = Measure("virtual tokens", probe("latency", "virtual_tokens"), _whole, exact=True)
FIRST = Measure("time to the first token", probe("latency", "first_token_ms"), _whole, " ms")
ANSWER = Measure("time of an answer", probe("latency", "answer_ms"), _whole, " ms")


def metric(name: str) -> Measure:
    """Return a metric of the test rows."""

    def read(cell: Cell) -> float | None:
        found = cell.result.metrics.get(name)
        return None if found is None else found.value

    return Measure(name, read, percent, less=False)


def other_tasks(benchmark: Benchmark | None) -> list[Measure]:
    """Return the change of the score on each other task that runs were scored on; without any, one that nobody has."""
    runs = [] if benchmark is None else [cell for cells in benchmark.cells.values() for cell in cells.values()]
    kinds: dict[str, str] = {}
    for cell in runs:
        for name, measured in cell.probes.get("forgetting", {}).get("tasks", {}).items():
            kinds.setdefault(name, measured["metric"])
    if not kinds:
        return [Measure("change of the score on other tasks, attached", lambda _: None, str)]
    return [_other_task(name, kind) for name, kind in kinds.items()]


def _other_task(name: str, kind: str) -> Measure:
    def read(cell: Cell) -> float | None:
        base, attached = (probe("forgetting", "tasks", name, key)(cell) for key in ("base", "attached"))
        return None if base is None or attached is None else attached - base

    show, unit = (_nats, NATS) if kind == "loss" else (points, " points")
    return Measure(f"change of {kind} on {name}, attached", read, show, unit, less=kind == "loss")


def transfer_metric(benchmark: Benchmark) -> str | None:
    """Return the metric that rows of other kinds are judged by: the task's main one, or slot F1 where it reports that.

    Far from what was trained, whole commands are hardly ever right: that nobody gets any tells nobody apart.
    """
    names = metrics_of(benchmark)
    return "slot_f1" if "slot_f1" in names else next(iter(names), None)


def transfers(benchmark: Benchmark | None) -> list[Measure]:
    """Return `transfer_metric` on each kind of rows that the grid scores and does not train on."""
    name = transfer_metric(benchmark) if benchmark else None
    return [_transfer(where, name) for where in benchmark.grid.get("transfer", [])] if benchmark and name else []


def _transfer(where: dict[str, list[str]], name: str) -> Measure:
    def read(cell: Cell) -> float | None:
        found = [t for t in cell.probes.get("transfer", []) if t["where"] == where]
        return found[0]["metrics"].get(name) if found else None

    rows = ", ".join(str(value) for values in where.values() for value in values)
    return Measure(f"{name} on {rows}", read, percent, " %", less=False)
