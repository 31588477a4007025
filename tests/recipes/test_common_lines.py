"""Recipes differ only in their method: the same steps in the same order, short, with a command that exists."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from helpers import ROOT, load_recipe
from softprompts.config.cli import build_parser
from softprompts.config.paths import PATHS
from softprompts.methods.catalog import METHODS

import pytest

MARKER = "# The method: the only part that differs between recipes."
# Lines that all recipes share, in this order; lines that differ are between them.
COMMON = (
    "rows = sp.load_task(task)",
    "base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)",
    MARKER,
    "outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)",
    'if __name__ == "__main__":',
    "sp.cli(main",
)
STEPS = ("load_task", "start_run", "load_base_model", "make_engine", "evaluate_test", "save_run", "cli")
# Recipes that train also have these lines, one after another.
ENGINE = "engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)"
TRAIN = "progress = sp.train(engine, data, training, evaluation, this)"
SAVES = {"compare": "save_contest"}  # two outcomes give one record, which is not a run's
TOOLS = {
    "compose",
    "export",
    "forget",
    "generate",
    "governance",
    "neighbours",
    "new",
    "readiness",
    "report",
    "serve",
}  # without a run and without their own task
EVALUATES = {
    "compare",
    "compose",
    "ensemble",
    "evaluate",
    "export",
    "forget",
    "generate",
    "governance",
    "neighbours",
    "readiness",
    "report",
    "serve",
}  # do not train: they read adapters, or data and records
ALL = sorted((ROOT / "recipes").glob("*.py"))
RECIPES = [path for path in ALL if path.stem not in TOOLS]

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
each_script = pytest.mark.parametrize("recipe", ALL, ids=lambda path: path.stem)


def lines(recipe: Path) -> list[str]:
    return [line.strip() for line in recipe.read_text(encoding="utf-8").splitlines()]


def test_there_are_recipes() -> None:
    names = {path.stem for path in ALL}
    assert {"prompt_tuning", "hard_prompt"} | TOOLS | EVALUATES <= names
    assert names - EVALUATES - {"new", "sweep"} == METHODS.keys(), "each method that is checked has its recipe"


@each_recipe
def test_common_lines_are_identical_and_in_order(recipe: Path) -> None:
    text = [COMMON[-1] if line.startswith(COMMON[-1]) else line for line in lines(recipe)]
    for line in COMMON:
        assert text.count(line) == 1, f"{recipe.name}: not once: {line}"
    assert sorted(COMMON, key=text.index) == list(COMMON)


@each_recipe
def test_steps_are_called_once_and_in_order(recipe: Path) -> None:
    calls = [
        (node.lineno, node.func.attr)
        for node in ast.walk(ast.parse(recipe.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {*STEPS, *SAVES.values()}
    ]
    steps = [SAVES.get(recipe.stem, name) if name == "save_run" else name for name in STEPS]
    assert [name for _, name in sorted(calls)] == steps


@each_recipe
def test_the_marker_stands_between_base_model_and_engine(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert text.index("load_base_model(") < text.index(MARKER) < text.index("make_engine(")


@each_recipe
def test_training_recipes_share_the_lines_of_training(recipe: Path) -> None:
    text = lines(recipe)
    trains = any("sp.train(" in line for line in text)
    assert (TRAIN in text) == trains
    if trains:
        assert text.index(TRAIN) == text.index(ENGINE) + 1
        assert [line for line in text if "make_engine(" in line] == [ENGINE]


@each_script
def test_what_trains_or_asks_checks_the_method_before_anything_is_loaded(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    names = re.findall(r'check_method\("?([\w.]+)"?, model', text)
    if recipe.stem in EVALUATES:
        assert names == []
        return
    other = {"sweep": "sweep.method", "new": "prompt_tuning"}
    assert names == [other.get(recipe.stem, recipe.stem)]
    before = "propose(" if recipe.stem == "new" else "start_run("
    assert text.index(before) < text.index("check_method(") < text.index("load_base_model(")


@pytest.mark.parametrize("recipe", ["compare", "evaluate", "hard_prompt"])
def test_a_text_of_evaluation_stop_replaces_the_end_token_of_a_tokenizer(recipe: str) -> None:
    """Only a model that is trained here learns an end."""
    text = (ROOT / "recipes" / f"{recipe}.py").read_text(encoding="utf-8")
    assert text.count("sp.encode(") == text.count("needs_end=not evaluation.stop") == 1


@each_recipe
def test_the_recipe_names_itself(recipe: Path) -> None:
    names = re.findall(r'start_run\(\s*"(\w+)"', recipe.read_text(encoding="utf-8"))
    assert names == [recipe.stem]


@each_recipe
def test_every_argument_is_recorded(recipe: Path) -> None:
    tree = ast.parse(recipe.read_text(encoding="utf-8"))
    (main,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main")
    (start,) = (
        n
        for n in ast.walk(main)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "start_run"
    )
    assert [k.arg for k in start.keywords] == [a.arg for a in main.args.args]


@each_script
def test_the_docstring_has_a_command_whose_paths_exist(recipe: Path) -> None:
    docstring = ast.get_docstring(ast.parse(recipe.read_text(encoding="utf-8"))) or ""
    if recipe.stem in TOOLS:  # without a config: its few settings are flags
        assert f"    python recipes/{recipe.name} --" in docstring
        return
    commands = re.findall(r"accelerate launch (recipes/\S+\.py) --config (\S+\.yaml)", docstring)
    assert commands
    for script, config in commands:
        assert script == f"recipes/{recipe.name}"
        assert (ROOT / config).is_file()
        assert Path(config).stem == recipe.stem


@each_script
def test_every_flag_of_the_docstring_exists(recipe: Path) -> None:
    module = load_recipe(recipe.stem)
    main = module.main
    _, valid = build_parser(main)
    if recipe.stem == "compare":
        valid |= build_parser(module.served)[1] | build_parser(module.planned)[1]
    flags = re.findall(r"--([a-z_]+\.[a-z_]+)", inspect.getdoc(inspect.getmodule(main)) or "")
    assert [flag for flag in flags if flag not in valid] == []


# The last part of a key whose value is or may be a path.
PATH_NAMES = {
    "adapters",
    "init_adapter",
    "metric_data",
    "metrics",
    "name_or_path",
    "output",
    "output_dir",
    "path",
    "record",
    "runs",
    "schema",
    "test",
    "train",
}


@each_script
def test_c1_every_setting_that_is_a_path_is_expanded(recipe: Path) -> None:
    _, valid = build_parser(load_recipe(recipe.stem).main)
    named = {key for key in valid if "." in key and key.rpartition(".")[2] in PATH_NAMES | {"validation"}}
    assert named - set(PATHS) == set()


@each_script
def test_a_recipe_is_short(recipe: Path) -> None:
    assert len(lines(recipe)) < 110
