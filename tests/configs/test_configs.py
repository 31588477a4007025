"""Every shipped config: its header has its command, its recipe accepts it, and it runs a step on the tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.grid.records import differing
from benchmarks.tasks.headers import measured
from benchmarks.tasks.record import record_of_config
from helpers import ROOT, cli_in_process, load_recipe, losses, read_result
from method_runs import saved_by_peft
from softprompts.config.cli import parse
from softprompts.runs.record import load_result

import pytest
import yaml
from peft import PromptTuningConfig

# No recipe's: test_accelerate_configs.py, test_benchmark_configs.py, test_business.py, test_memorisation.py,
# test_serving_configs.py and test_study.py test them.
APART = ("accelerate", "benchmarks", "business", "cluster", "memorisation", "serving", "study")
CONFIGS = sorted(
    p
    for p in (ROOT / "configs").glob("*/*.yaml")
    if p.parent.name not in APART and p.name != "readiness.yaml"  # answers of a person, not settings
)
# Configs that need a network run in test_hub_tasks.py, on local data.
OFFLINE = [p for p in CONFIGS if p.parent.name != "hub"]
QUICK = ("demo", "own_data")  # run in `make test`

each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda p: f"{p.parent.name}-{p.stem}")


def header(config: Path) -> str:
    """Return the comment at the beginning of a config."""
    return config.read_text(encoding="utf-8").partition("\nmodel:")[0]


def recipe_of(config: Path) -> str:
    """Return the name of the recipe in the header's command."""
    (script,) = set(re.findall(r"recipes/(\w+)\.py", header(config)))
    return script


def test_there_are_configs() -> None:
    assert {"sentiment/prompt_tuning.yaml", "sentiment/hard_prompt.yaml", "own_data/prompt_tuning.yaml"} <= {
        str(p.relative_to(ROOT / "configs")) for p in CONFIGS
    }


@each_config
def test_the_header_shows_the_command_that_runs_it(config: Path) -> None:
    commands = re.findall(r"^#   accelerate launch (\S+) --config (\S+)", header(config), re.MULTILINE)
    assert commands
    for script, path in commands:
        assert (ROOT / script).is_file()
        assert ROOT / path == config


@each_config
def test_it_parses_through_its_recipe(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = parse(load_recipe(recipe_of(config)).main, ["--config", str(config)])
    written: dict[str, dict[str, Any]] = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert set(written) <= set(settings)
    for section, values in written.items():
        for key, value in values.items():
            assert getattr(settings[section], key) == value, f"{section}.{key}"


@each_config
def test_the_header_says_what_its_record_says(config: Path) -> None:
    record = record_of_config(config.parent.name, config.stem, ROOT / "results")
    named = re.findall(r"\((results/(?:tasks|benchmarks)/\S+\.json)\)", header(config))
    assert named == ([record.relative_to(ROOT).as_posix()] if record.is_file() else [])
    if named:
        assert measured(load_result(record), named[0]) in header(config)


@each_config
def test_the_record_of_a_config_has_its_settings(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise README and header would have numbers of other settings. `auto` is another data type on each machine.

    A final benchmark also measures energy, and ends a prediction with its line.
    """
    monkeypatch.chdir(ROOT)
    record = record_of_config(config.parent.name, config.stem)
    if record.is_file():
        now = parse(load_recipe(recipe_of(config)).main, ["--config", str(config)])
        final = {"training.energy", "evaluation.stop"} if "benchmarks" in record.parts else set()
        assert differing(now, load_result(record).settings).keys() <= {"model.dtype"} | final


@each_config
def test_no_config_has_two_records(config: Path) -> None:
    """A final benchmark replaces the single run, which nothing would read."""
    record = record_of_config(config.parent.name, config.stem, ROOT / "results")
    single = ROOT / "results" / "tasks" / config.parent.name / f"{config.stem}.json"
    assert record == single or not single.is_file()


@each_config
def test_output_goes_to_a_folder_of_its_own(config: Path) -> None:
    folder = yaml.safe_load(config.read_text(encoding="utf-8"))["run"]["output_dir"]
    assert folder == f"runs/{config.relative_to(ROOT / 'configs').with_suffix('')}"


def sections_of_demonstrations(settings: dict[str, Any]) -> list[str]:
    """Return the sections whose soft prompt starts from few-shot examples."""
    return [s for s in ("prefix", "prompt") if settings.get(s, {}).get("init_from") == "demonstrations"]


@pytest.mark.parametrize(
    "config",
    [pytest.param(p, marks=[] if p.parent.name in QUICK else [pytest.mark.slow]) for p in OFFLINE],
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_it_runs_a_step_on_the_tiny_model(
    config: Path, tiny_model: Path, wider_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(config)
    flags = {
        "model.name_or_path": tiny_model,
        # The tiny tokenizer knows few words: it makes more tokens of a text than the tiny model has positions.
        "task.long_rows": "cut_prompt",
        "task.max_rows": "{train: 32, validation: 8, test: 8}",
        "evaluation.bootstrap_resamples": 10,
        "run.output_dir": tmp_path / "run",
    }
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    trains = "training" in settings
    if trains:
        flags |= {"training.steps": 1, "training.warmup_steps": 0}
    if recipe == "compare":
        flags["second.shots"] = 1
    if recipe in ("context_tuning", "cpt"):  # all examples have to fit in
        flags |= {f"{recipe.removesuffix('_tuning')}.demonstrations": 2, "model.name_or_path": wider_model}
    for section in sections_of_demonstrations(settings):  # a whole row has to fit in
        flags |= {f"{section}.num_virtual_tokens": 200, "model.name_or_path": wider_model}
    if config.stem == "cartridge":  # its text does not fit
        text = tmp_path / "text.txt"
        text.write_text((ROOT / "configs/home_commands/cartridge.txt").read_text(encoding="utf-8")[:400])
        flags |= {"prefix.init_text": text, "training.teacher_context": text, "model.name_or_path": wider_model}
    if recipe == "multitask_prompt_tuning":
        flags["prompt.factor_steps"] = 0
    if recipe == "ensemble":  # the adapters that it names are not trained yet
        folders = [tmp_path / name for name in ("first", "second")]
        for folder in folders:
            saved_by_peft(tiny_model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), folder)
        flags["ensemble.adapters"] = json.dumps([str(folder) for folder in folders])
    pairs = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    code, _, errors = cli_in_process([f"recipes/{recipe}.py", "--config", str(config), *pairs], capfd)
    assert code == 0, errors
    result = read_result(tmp_path / "run", "compare.json" if recipe == "compare" else "result.json")
    assert result["recipe"] == recipe
    assert result["data"]["splits"]["test"]["rows"] <= 8
    if trains:
        assert len(losses(result["training"]["history"])) == 1
        assert list((tmp_path / "run" / result["notes"]["saved"]).rglob("*model.safetensors"))
