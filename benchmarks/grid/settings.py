"""The benchmark: methods and seeds on one task, and the records of its runs.

The folder of a benchmark, `results/benchmarks/NAME/`, contains:

    grid.json                   the settings of the grid
    rows.json                   the test rows: place, prompt, target
    METHOD/sweep.json           every point of the method's sweep, and the point that validation chose
    METHOD/seedN.json           the record of a run
    METHOD/seedN.answers.json   its predictions for the test rows, in their order
    METHOD/seedN.probes.json    further measurements of the trained method
    METHOD/seedN.failed.json    only if the run failed: the reason
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
        label: its name in tables; by default its key.
        settings: differences from the task's shipped config of that recipe, by dotted key.
        sweep: values of dotted keys; validation chooses one combination, by the settings' `training.best_by`.
        further: more combinations of the same keys, for a sweep whose best point is at an edge. They may be added to a
            sweep that has its record.
        mixed_precision: as of `accelerate launch --mixed_precision`, for weights that have to stay in 32 bits; auto is
            bf16 if the processor or GPU has instructions for it.
        seeds: by default those of the grid.
    """

    recipe: str
    label: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    further: list[dict[str, Any]] = field(default_factory=list)
    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = "no"
    seeds: list[int] | None = None


@dataclass
class GridConfig:
    """Every method with every seed on one task.

    Args:
        task: folder in configs/ with the config of each recipe.
        methods: rows of the benchmark, in the order of its tables.
        seeds: of initial values, order of rows and drawn examples.
        settings: of all methods, by dotted key. They override the task's config, and a method's own override them.
        training: keys of `training` in the recipes, the same for all methods that train.
        sweep_training: keys of `training` that differ in the runs of a sweep.
        sweep_seed: seed of the runs of a sweep.
        extensions: most points by which a sweep continues beyond the tried values while its best point is at an edge.
        probes: further measurements of each method: sampling, forgetting, latency, transfer.
        sampled_rows: test rows of the probe sampling.
        transfer: rows of the probe transfer, each as `task.where` of the same task, for example another domain.
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
    extensions: int = 0
    probes: list[str] = field(default_factory=list)
    sampled_rows: int = 60
    transfer: list[dict[str, list[Any]]] = field(default_factory=list)
    transfer_rows: int = 150
    name: str | None = None


@dataclass(frozen=True)
class Cell:
    """A finished run: its record, its predictions for the test rows in their order, and the results of its probes."""

    method: str
    seed: int
    result: Result
    answers: list[str]
    probes: dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """The records of a benchmark.

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
        """The values that a sweep chooses, for each method with a run that has other values."""
        found = {}
        for method, sweep in self.sweeps.items():
            chosen = sweep["chosen"] or {}
            for cell in self.cells[method].values():
                made_with = {key: _setting(cell.result.settings, key) for key in chosen}
                if made_with != chosen:
                    found[method] = chosen
        return found

    def label(self, method: str) -> str:
        """Return the name of a method in tables."""
        return self.grid["methods"][method]["label"] or method.replace("_", " ")

    def values(self, method: str, metric: str) -> list[float]:
        """Return a metric of each finished run of a method, in the order of the seeds."""
        return [cell.result.metrics[metric].value for _, cell in sorted(self.cells[method].items())]


def load_benchmark(folder: Path) -> Benchmark:
    """Read all records of a benchmark.

    Raises:
        UserError: there are none; a run has no predictions, or more or fewer than there are rows.
    """
    if not (folder / "grid.json").is_file():
        raise UserError(f"{folder}: is not the folder of a benchmark, because it has no grid.json")
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
                    raise UserError(f"{record}: its predictions are missing: {answers}")
                said = _read(answers)
                if len(said) != len(rows):
                    raise UserError(f"{answers}: has {len(said)} predictions for {len(rows)} test rows")
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
    """Return settings as printed: "r 8, init_from null"."""
    return ", ".join(f"{key.rpartition('.')[2]} {'null' if value is None else value}" for key, value in values.items())


def _setting(settings: dict[str, Any], key: str) -> Any:
    part, _, name = key.rpartition(".")
    return settings[part].get(name) if part in settings else None


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
