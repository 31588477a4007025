"""Every grid in configs/benchmarks: it parses, its keys belong to its recipes, and its header has its command."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from benchmarks.grid.plan import check, jobs
from benchmarks.grid.records import changed_settings, keep_grid, record_of
from benchmarks.grid.settings import GridConfig
from helpers import ROOT, load_recipe
from softprompts.config.cli import build_parser, parse
from softprompts.config.yaml_files import is_read

import pytest

GRIDS = sorted((ROOT / "configs" / "benchmarks").glob("*.yaml"))
FOR_A_GPU = ("li_length", "li_init", "li_placement")
PAPERS = [path for path in GRIDS if path.stem.startswith(("lester_", "li_", "scale"))]

RECORDED = [path for path in GRIDS if (ROOT / "results" / "benchmarks" / path.stem / "grid.json").is_file()]

each_recorded = pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
each_grid = pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
each_paper = pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)


def only_grid(grid: GridConfig) -> None:
    """Replace the benchmark's main, without its other settings."""


def read(path: Path) -> GridConfig:
    grid: GridConfig = parse(only_grid, ["--config", str(path)])["grid"]
    return grid


@cache
def keys_of(recipe: str) -> set[str]:
    return build_parser(load_recipe(recipe).main)[1]


def test_there_are_grids_of_both_papers() -> None:
    assert {p.stem for p in PAPERS} == {
        *("lester_length", "lester_init", "scale"),
        *("li_length", "li_init", "li_low_data", "li_placement"),
    }


@each_grid
def test_it_names_recipes_and_a_task_that_exist(path: Path) -> None:
    grid = read(path)
    assert grid.methods
    assert len(set(grid.seeds)) == len(grid.seeds) > 0
    for method in grid.methods.values():
        assert (ROOT / "recipes" / f"{method.recipe}.py").is_file()
        assert (ROOT / "configs" / grid.task / f"{method.recipe}.yaml").is_file()


@each_grid
def test_every_key_is_one_of_its_recipes(path: Path) -> None:
    grid = read(path)
    for name, method in grid.methods.items():
        valid = keys_of(method.recipe)
        if "training" in valid:
            assert [k for k in grid.training | grid.sweep_training if f"training.{k}" not in valid] == [], name
        settings = {**grid.settings, **method.settings, **method.sweep}
        assert [key for key in settings if not is_read(key, valid) or "." not in key] == [], name


@pytest.mark.slow
@each_grid
def test_every_command_is_one_that_its_recipe_takes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    check(read(path), tmp_path)


@pytest.mark.slow
@each_recorded
def test_a_recorded_grid_would_run_again_as_it_was_recorded(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grid reads its other settings from the shipped configs, which later studies change."""
    monkeypatch.chdir(ROOT)
    grid, folder = read(path), ROOT / "results" / "benchmarks" / path.stem
    shutil.copy(folder / "grid.json", tmp_path)
    keep_grid(grid, tmp_path)  # refuses settings that differ from the record
    recorded = [job for job in jobs(grid, tmp_path) if job.kind == "run" and record_of(folder, job).is_file()]
    assert recorded
    for job in recorded:
        assert changed_settings(grid, folder, job) == {}, job.name


@each_paper
def test_methods_differ_in_what_their_recipes_read(path: Path) -> None:
    methods = list(read(path).methods.values())
    told_apart = [(m.recipe, sorted(m.settings.items(), key=str)) for m in methods]
    assert all(told_apart.count(one) == 1 for one in told_apart)
    labels = [m.label for m in methods]
    assert len(set(labels)) == len(labels)
    assert None not in labels


@each_paper
def test_the_head_says_which_experiment_it_is_and_how_it_runs(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("\ngrid:")[0]
    paper = "Li and Liang (2021), section" if path.stem.startswith("li_") else "Lester et al. (2021), section"
    assert paper in head.replace("\n# ", " ")
    assert f"#   make bench GRID={path.stem} " in head
    assert f"python -m benchmarks.grid --config configs/benchmarks/{path.stem}.yaml" in head


@pytest.mark.slow
@each_paper
def test_its_records_have_a_folder_of_their_own(path: Path) -> None:
    assert read(path).name == path.stem
    assert [read(p).name or read(p).task for p in GRIDS].count(path.stem) == 1


@each_paper
def test_the_budget_is_small_and_test_rows_are_limited(path: Path) -> None:
    grid = read(path)
    assert 40 <= grid.training["steps"] <= (200 if path.stem in FOR_A_GPU else 64)
    # Rows of docstrings are long, and generated answers take longer to score than two words.
    assert grid.training["batch_size"] == (8 if grid.task == "docstrings" else 16)
    assert grid.training["eval_rows"] == (60 if path.stem == "li_low_data" else 100)
    assert grid.training["steps"] % grid.training["eval_every"] == 0, "the last update is validated at a full interval"
    for method in grid.methods.values():
        rows = {**grid.settings, **method.settings}["task.max_rows"]
        assert rows["test"] <= 300
        if method.sweep:  # its points are scored on the whole of it
            assert rows["validation"] <= 100
