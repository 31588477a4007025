"""Read the records for the site's tables, each once per build."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

from benchmarks.grid.settings import Benchmark, load_benchmark
from benchmarks.report.frame import Records, compare_methods, main_benchmark, make_records, runs_frame
from benchmarks.tasks.record import TASKS as TASKS, record_of_config as record_of_config
from scripts.build_docs.pages import ROOT
from softprompts.methods.catalog import METHODS
from softprompts.runs.record import Result, load_result

import pandas

RESULTS = ROOT / "results"


@functools.cache
def shipped(task: str) -> dict[str, Result]:
    """Return the records of a task's shipped configs, by recipe, in the order of the table of methods."""
    files = {name: record_of_config(task, name, RESULTS) for name in METHODS}
    return {name: load_result(file) for name, file in files.items() if file.is_file()}


def swept(task: str, recipe: str) -> bool:
    """Return whether a sweep of the study chose the shipped settings of a recipe on a task."""
    return (RESULTS / "study" / task / f"{recipe}.json").is_file()


@functools.cache
def grids() -> dict[str, Benchmark]:
    """Return the benchmark that represents each of the three tasks, by the task's name, if it has records."""
    folders = (RESULTS / "benchmarks" / name for task in TASKS for name in (task, f"final_{task}"))
    found = {folder.name: load_benchmark(folder) for folder in folders if (folder / "grid.json").is_file()}
    names = {task: main_benchmark(found, task) for task in TASKS}
    return {task: replace(found[name], name=task) for task, name in names.items() if name in found}


@functools.cache
def use_case(task: str) -> Records | None:
    """Return the benchmark of a use case, or None if no run of it has a record."""
    folder = RESULTS / "benchmarks" / task
    benchmark = load_benchmark(folder) if (folder / "grid.json").is_file() else None
    if benchmark is None or not any(benchmark.cells.values()):
        return None
    return make_records([benchmark], {task: compare_methods(benchmark)})


@functools.cache
def runs() -> pandas.DataFrame:
    """Return a row for each planned run of these benchmarks."""
    return runs_frame(list(grids().values()))


@functools.cache
def speeds() -> list[dict[str, Any]]:
    """Return the records of the benchmark of training, in the order of its methods."""
    files = sorted((RESULTS / "throughput").glob("*.json"))
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(records, key=lambda record: -record["ratio"]["peft"])
