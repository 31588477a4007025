"""The benchmark: methods and seeds on one task, and the records of its runs.

The folder of a benchmark, `results/benchmarks/NAME/`, holds

    grid.json                   the settings, as the grid was run
    rows.json                   the test rows: place, prompt, target
    METHOD/sweep.json           every point of the method's sweep, and the one that validation chose
    METHOD/seedN.json           the record of a run
    METHOD/seedN.answers.json   its answers to the test rows, in their order
    METHOD/seedN.probes.json    what was measured of the trained method beside its test score
    METHOD/seedN.failed.json    instead of all that: why the run failed
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from softprompts.errors import UserError
from softprompts.runs.record import Result, load_result


@dataclass
class MethodConfig:
    """A row of the benchmark.

    Args:
        recipe: name of its script in recipes/.
        label: what tables call it; by default its key.
        settings: what differs from the task's shipped config of that recipe, by dotted key.
        sweep: values of dotted keys; validation chooses one combination, by the settings' `training.best_by`.
        further: combinations tried beside those, of the same keys: where the best lay at the edge of the sweep. They
            may be added to a sweep that has its record.
        mixed_precision: as of `accelerate launch --mixed_precision`: for weights that have to stay in 32 bits.
        seeds: by default those of the grid.
    """

    recipe: str
    label: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    further: list[dict[str, Any]] = field(default_factory=list)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    seeds: list[int] | None = None


@dataclass
class GridConfig:
    """Every method with every seed on one task.

    Args:
        task: folder in configs/ whose files the settings of each recipe begin with.
        methods: rows of the benchmark, in the order of its tables.
        seeds: of initial values, order of rows and drawn examples.
        settings: for all methods, by dotted key; they win over the task's config, and a method's own over them.
        training: the budget, the same for all that train: keys of `training` in the recipes.
        sweep_training: what of it a run of a sweep has instead.
        sweep_seed: seed of the runs of a sweep.
        probes: what is measured of each method beside its test score: sampling, forgetting, latency, transfer.
        sampled_rows: test rows that the probe sampling draws answers for.
        transfer: the rows that the probe of that name scores, each as `task.where` of the same task: other domains,
            other languages.
        transfer_rows: test rows of each of them.
        name: of the benchmark; by default the task's.
    """

    task: str
    methods: dict[str, MethodConfig]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    sweep_training: dict[str, Any] = field(default_factory=dict)
    sweep_seed: int = 100
    probes: list[str] = field(default_factory=list)
    sampled_rows: int = 60
    transfer: list[dict[str, list[Any]]] = field(default_factory=list)
    transfer_rows: int = 150
    name: str | None = None


@dataclass(frozen=True)
class Cell:
    """A finished run: its record, its answers to the test rows in their order, and what probes found of it."""

    method: str
    seed: int
    result: Result
    answers: list[str]
    probes: dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """What is recorded of a benchmark.

    grid: `GridConfig` as plain values; rows: place, prompt and target of each test row; cells: the finished runs of
    each method of the grid, by seed; failed: the reasons of those that failed; sweeps: the points tried, by method.
    """

    name: str
    grid: dict[str, Any]
    rows: list[dict[str, str]]
    cells: dict[str, dict[int, Cell]]
    failed: dict[str, dict[int, str]]
    sweeps: dict[str, dict[str, Any]]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """The method and seed of each run of the grid that has no record, or a failed one."""
        return [(m, s) for m in self.grid["methods"] for s in seeds_of(self.grid, m) if s not in self.cells[m]]

    @property
    def outdated(self) -> dict[str, dict[str, Any]]:
        """What their sweep chooses, of the methods that have a run made with other values, before points were added."""
        found = {}
        for method, sweep in self.sweeps.items():
            chosen = sweep["chosen"] or {}
            for cell in self.cells[method].values():
                made_with = {key: _setting(cell.result.settings, key) for key in chosen}
                if made_with != chosen:
                    found[method] = chosen
        return found

    def label(self, method: str) -> str:
        """Return what tables call a method."""
        return self.grid["methods"][method]["label"] or method.replace("_", " ")

    def values(self, method: str, metric: str) -> list[float]:
        """Return a metric of each finished run of a method, in the order of the seeds."""
        return [cell.result.metrics[metric].value for _, cell in sorted(self.cells[method].items())]


def load_benchmark(folder: Path) -> Benchmark:
    """Read all records of a benchmark.

    Raises:
        UserError: it has none; a run without its answers, or with another number of them than there are rows.
    """
    if not (folder / "grid.json").is_file():
        raise UserError(f"{folder}: holds no benchmark: it has no grid.json")
    grid = _read(folder / "grid.json")
    rows = _read(folder / "rows.json") if (folder / "rows.json").is_file() else []
    cells: dict[str, dict[int, Cell]] = {}
    failed: dict[str, dict[int, str]] = {}
    sweeps = {}
    for method in grid["methods"]:
        cells[method], failed[method] = {}, {}
        for seed in seeds_of(grid, method):
            record = folder / method / f"seed{seed}.json"
            if record.is_file():
                answers = record.with_suffix(".answers.json")
                if not answers.is_file():
                    raise UserError(f"{record}: its answers are missing: {answers}")
                said = _read(answers)
                if len(said) != len(rows):
                    raise UserError(f"{answers}: holds {len(said)} answers to {len(rows)} test rows")
                probes = record.with_suffix(".probes.json")
                found = _read(probes) if probes.is_file() else {}
                cells[method][seed] = Cell(method, seed, load_result(record), said, found)
            elif record.with_suffix(".failed.json").is_file():
                failed[method][seed] = _read(record.with_suffix(".failed.json"))["reason"]
        if (folder / method / "sweep.json").is_file():
            sweeps[method] = _read(folder / method / "sweep.json")
    return Benchmark(folder.name, grid, rows, cells, failed, sweeps)


def seeds_of(grid: Mapping[str, Any], method: str) -> list[int]:
    """Return the seeds of a method of a recorded grid: its own, or the grid's."""
    own = grid["methods"][method].get("seeds")
    return grid["seeds"] if own is None else own


def in_words(values: dict[str, Any]) -> str:
    """For people: "r 8, learning_rate 0.1"."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())


def _setting(settings: dict[str, Any], key: str) -> Any:
    part, _, name = key.rpartition(".")
    return settings[part].get(name) if part in settings else None


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
