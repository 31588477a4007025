"""The jobs of a benchmark: the points of each method's sweep, its runs with every seed, and their probes."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from benchmarks.grid.settings import GridConfig, MethodConfig, in_words, seeds_of
from softprompts.config.cli import parse
from softprompts.errors import UserError, nearest

ROOT = Path(__file__).resolve().parents[2]
PROBES = ("sampling", "forgetting", "latency", "transfer")


@dataclass(frozen=True, eq=False)
class Job:
    """One process: a point of a method's sweep, a run with one seed, or the probes of a run.

    number: of the point, or the seed; folder: of its run; values: the settings that a point of a sweep tries; what: the
    measurements of probes.
    """

    kind: str
    method: str
    number: int
    folder: Path
    values: dict[str, Any]
    what: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The job as printed: "prompt_tuning, seed 1"."""
        return (
            f"{self.method}, {f'sweep: {in_words(self.values)}' if self.kind == 'sweep' else f'seed {self.number}'}"
            + (f", {' and '.join(self.what)}" if self.kind == "probe" else "")
        )


def name_of(grid: GridConfig) -> str:
    """Return the name of a benchmark: its own, or its task's."""
    return grid.name or grid.task


def jobs(grid: GridConfig, runs: Path) -> list[Job]:
    """Return all jobs in their order: sweeps, then the runs seed by seed, then their probes seed by seed."""
    folder = runs / name_of(grid)
    made = [
        Job("sweep", name, index, folder / name / _folder_of(method, index, values), values)
        for name, method in grid.methods.items()
        for index, values in enumerate(points(method))
    ]
    every = asdict(grid)
    seeds = {name: seeds_of(every, name) for name in grid.methods}
    for kind, what in (("run", ()), ("probe", tuple(grid.probes))) if grid.probes else (("run", ()),):
        made += [
            Job(kind, name, seed, folder / name / f"seed{seed}", {}, what)
            for seed in dict.fromkeys(seed for own in seeds.values() for seed in own)
            for name in grid.methods
            if seed in seeds[name]
        ]
    return made


def _folder_of(method: MethodConfig, index: int, values: dict[str, Any]) -> str:
    """Return the folder of a point: its number, or if it is not of the sweep itself, its values."""
    if index < math.prod(map(len, method.sweep.values())):
        return f"sweep{index:02d}"
    return "_".join(["sweep", *(re.sub(r"[^\w.-]", "", str(value)) for value in values.values())])


def points(method: MethodConfig) -> list[dict[str, Any]]:
    """Return every combination of a method's sweep, then the further points. The last key varies fastest."""
    if not method.sweep:
        return []
    combinations = itertools.product(*method.sweep.values())
    return [*(dict(zip(method.sweep, values, strict=True)) for values in combinations), *method.further]


def command(grid: GridConfig, job: Job, chosen: dict[str, Any]) -> list[str]:
    """Return the arguments of `python` for a point of a sweep or a run; `chosen` has the values of its sweep."""
    method = grid.methods[job.method]
    settings = dict(grid.settings)
    if trains(method.recipe):
        settings |= {f"training.{key}": value for key, value in grid.training.items()}
    settings |= method.settings
    if job.kind == "sweep":
        settings |= {f"training.{key}": value for key, value in grid.sweep_training.items()}
        # The test rows are not read before everything is chosen.
        settings |= job.values | {"evaluation.split": "validation", "run.seed": grid.sweep_seed}
    else:
        settings |= chosen | {"run.seed": job.number}
    settings |= {"run.output_dir": str(job.folder), "run.trackers": []}
    flags = [text for key, value in settings.items() for text in (f"--{key}", _text(value))]
    config = f"configs/{grid.task}/{method.recipe}.yaml"
    return [f"recipes/{method.recipe}.py", "--config", config, *flags, "--resume"]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def trains(recipe: str) -> bool:
    """Return whether a recipe trains."""
    return "training" in get_type_hints(_main_of(recipe))


def _main_of(recipe: str) -> Callable[..., None]:
    name = f"recipe_{recipe}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{recipe}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # the parser looks for its docstring there
        spec.loader.exec_module(module)
    main: Callable[..., None] = sys.modules[name].main
    return main


def check(grid: GridConfig, runs: Path) -> None:
    """Parse every command of a grid as its recipe does, before the first one runs.

    Raises:
        UserError: no such task, recipe or probe; no seeds or one twice; a key that the recipe lacks, or a wrong value.
    """
    tasks = sorted({path.parent.name for path in Path("configs").glob("*/hard_prompt.yaml")})
    if grid.task not in tasks:
        raise UserError(f'grid.task: "{grid.task}"{nearest(grid.task, tasks)}')
    _check_seeds("grid.seeds", grid.seeds)
    for probe in grid.probes:
        if probe not in PROBES:
            raise UserError(f'grid.probes: "{probe}"{nearest(probe, PROBES)}')
    if ("transfer" in grid.probes) != bool(grid.transfer):
        raise UserError("grid.transfer and the probe transfer in grid.probes require each other")
    recipes = [path.stem for path in Path("configs", grid.task).glob("*.yaml")]
    for name, method in grid.methods.items():
        _check_method(name, method, recipes)
    for job in jobs(grid, runs):
        if job.kind != "probe" and (refused := refusal(grid, job)):
            raise UserError(f"grid.methods: {job.method}: {refused}")


def refusal(grid: GridConfig, job: Job) -> str | None:
    """Return why a recipe refuses the command of a job; None if it accepts it."""
    try:
        parsed(grid, job, {})
    except UserError as error:
        return str(error)
    return None


def parsed(grid: GridConfig, job: Job, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a job as its recipe reads them, by section; `chosen` has the values of its sweep.

    Raises:
        UserError: a key that the recipe lacks, or a wrong value.
    """
    return parse(_main_of(grid.methods[job.method].recipe), command(grid, job, chosen)[1:])


def _check_seeds(key: str, seeds: list[int]) -> None:
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{key}: expected one or more different numbers, found {seeds}")


def _check_method(name: str, method: MethodConfig, recipes: list[str]) -> None:
    if method.seeds is not None:
        _check_seeds(f"grid.methods: {name}: seeds", method.seeds)
    if method.recipe not in recipes:
        raise UserError(f'grid.methods: {name}: recipe "{method.recipe}"{nearest(method.recipe, recipes)}')
    if method.sweep and not trains(method.recipe):
        raise UserError(f"grid.methods: {name}: sweep: {method.recipe} does not train, so validation chooses nothing")
    if not all(method.sweep.values()):
        raise UserError(f"grid.methods: {name}: sweep: a key without values")
    for values in method.further:
        if values.keys() != method.sweep.keys():
            keys = ", ".join(method.sweep) or "none, because it has no sweep"
            raise UserError(f"grid.methods: {name}: further: {values}: expected values of its sweep's keys ({keys})")


def choose(tried: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the values of the point that is best on validation; None if every point failed."""
    finished = [point for point in tried if point["best_value"] is not None]
    return max(finished, key=lambda point: point["best_value"])["values"] if finished else None
