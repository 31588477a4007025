"""Help and errors that need no model come before the libraries that take seconds to import."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from helpers import ROOT, load_recipe, recipe_environment
from softprompts.config.cli import build_parser, parse
from softprompts.config.help import FIRST, completion_script, help_of
from softprompts.runs.folders import CONFIG_FILE, OUTPUTS, RECIPE, RESULT_FILE, plain
from warm import WarmProcess

import pytest

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "evaluate", "pandas", "sklearn", "matplotlib")
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))


def start(recipe: str, *flags: str) -> tuple[int, set[str], str, str]:
    """Return exit code, imported packages, and the output on both streams."""
    command = ["tests/support/imported.py", f"recipes/{recipe}.py", *flags]
    process = WarmProcess(command, ROOT, recipe_environment(), light=True)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    *said, last = out.splitlines()
    code, modules = json.loads(last)
    return code, set(modules), "\n".join(said), err


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_imports_nothing_heavy(recipe: str) -> None:
    code, modules, said, _ = start(recipe, "--help")
    assert code == 0
    assert said.startswith(f"usage: python recipes/{recipe}.py")
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("recipe", "flags", "said"),
    [
        ("prompt_tuning", ["--print_config"], ""),
        ("prompt_tuning", ["--help", "all"], ""),
        (
            "prompt_tuning",
            ["--help", "al"],
            '--help: no section "al" (valid: all, model, task, prompt, training, evaluation',
        ),
        ("prompt_tuning", ["--print_completion", "bash"], ""),
        (
            "prompt_tuning",
            ["--print_completion", "zsh"],
            "--print_completion: expected bash | jsonschema, found zsh; for zsh",
        ),
        ("prompt_tuning", ["--print_completion"], "--print_completion: expected bash | jsonschema, found nothing"),
        ("prompt_tuning", ["--trainin.steps", "3"], 'unknown flag "--trainin.steps"'),
        ("lora", ["--lora.r", "x"], "lora.r: expected whole number"),
        ("prompt_tuning", ["--task.train", "no.jsonl", "--task.dataset", "null"], "no such file"),
        ("prompt_tuning", ["--task.prompt", "{txt}"], 'no column "txt"'),
        ("prompt_tuning", ["--task.dataset", "embedded:sentimen"], 'did you mean "embedded:sentiment"'),
        ("sweep", ["--sweep.grid", "{training.step: [1]}"], 'did you mean "training.steps"'),
        ("prompt_tuning", ["--training.steps", "0"], "training.steps: expected a number above 0, found 0"),
        ("prompt_tuning", ["--training.warmup_steps=-1"], "training.warmup_steps: expected 0 or more, found -1"),
        ("prompt_tuning", ["--training.steps", "9"], "expected at most training.steps (9), found 10"),
        ("prompt_tuning", ["--prompt.num_virtual_tokens", "0"], "prompt.num_virtual_tokens: expected a number above 0"),
        (
            "prompt_tuning",
            ["--run.trackers", "[tensorbord]"],
            'unknown tracker "tensorbord" (did you mean "tensorboard"',
        ),
        ("prompt_tuning", ["--task.metrics", "[acuracy]"], 'no metric "acuracy" (did you mean "accuracy"?)'),
        (
            "prompt_tuning",
            ["--model.name_or_path", "bundled:smollm"],
            'model.name_or_path: no bundled model "smollm" (did you mean "bundled:smollm2-135m-instruct"?)',
        ),
        ("prompt_tuning", ["--model.name_or_path", "./none"], "model.name_or_path: no such folder: ./none"),
        ("prompt_tuning", ["--run.output_dir", "src"], "run.output_dir: src is not empty; choose another folder"),
        ("prompt_tuning", ["--run.output_dir", "src", "--resume"], "src has no run to resume: it has no config.json"),
        (
            "prefix_tuning",
            ["--prefix.init_text", "a", "--prefix.init_weights", "zero"],
            "cannot be combined with init_weights",
        ),
    ],
)
def test_errors_that_need_no_model_import_nothing_heavy(
    recipe: str, flags: list[str], said: str, tmp_path: Path
) -> None:
    config = ["--config", f"configs/sentiment/{recipe}.yaml", "--run.output_dir", str(tmp_path / "run")]
    code, modules, _, errors = start(recipe, *config, *flags)
    assert code == (2 if said else 0)
    assert said in errors
    assert len(errors.splitlines()) == bool(said)
    assert modules.isdisjoint(HEAVY)


def test_a_resume_that_is_refused_or_done_imports_nothing_heavy(tmp_path: Path) -> None:
    config = ["--config", "configs/sentiment/prompt_tuning.yaml", "--run.output_dir", str(tmp_path)]
    arguments = parse(load_recipe("prompt_tuning").main, config)
    settings = {name: plain(value) for name, value in arguments.items()}
    (tmp_path / CONFIG_FILE).write_text(json.dumps({RECIPE: "prompt_tuning", OUTPUTS: []} | settings))
    (tmp_path / "checkpoints").mkdir()
    code, modules, _, errors = start("prompt_tuning", *config, "--resume", "--training.learning_rate", "0.5")
    assert code == 2
    assert errors.startswith(f"error: --resume: the settings of {tmp_path} have changed: training.learning_rate was ")
    assert modules.isdisjoint(HEAVY)
    (tmp_path / RESULT_FILE).write_text("{}")
    code, modules, said, errors = start("prompt_tuning", *config, "--resume")
    assert (code, said, errors) == (0, f"{tmp_path} contains a finished run; nothing to do", "")
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_names_keys_with_defaults_and_fits_a_terminal(recipe: str) -> None:
    text = help_of(load_recipe(recipe).main)
    model = "--model.name_or_path TEXT  (default: bundled:smollm2-135m-instruct)"
    first = {
        "compose": "--compose.adapters",
        "forget": "--forget.run",
        "governance": "--governance.run",
        "readiness": "--readiness.config",
        "report": "--report.runs",
    }  # these load no model
    assert first.get(recipe, model) in text
    assert "--help all" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_whole_help_has_every_key_and_that_of_a_section_its_own(recipe: str) -> None:
    main = load_recipe(recipe).main
    keys = {key for key in build_parser(main)[1] if "." in key}
    text = help_of(main, "all")
    assert set(re.findall(r"^  --(\S+) ", text, re.MULTILINE)) == keys
    assert not re.search(r"and \d+ more", text)
    assert max(map(len, text.splitlines())) <= 120
    section = min(keys).partition(".")[0]
    own = {key for key in keys if key.startswith(f"{section}.")}
    assert set(re.findall(r"^  --(\S+) ", help_of(main, section), re.MULTILINE)) == own


def test_bash_completes_the_flags_of_the_recipes_whose_scripts_it_has_read() -> None:
    scripts = "".join(
        completion_script(name, build_parser(load_recipe(name).main)[1]) for name in ("prompt_tuning", "lora")
    )

    def completed(*words: str) -> list[str]:
        ask = f'COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _softprompts; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", scripts + ask], capture_output=True, text=True, check=True, timeout=60)
        assert done.stderr == ""
        return done.stdout.split()

    assert completed("python", "recipes/prompt_tuning.py", "--training.le") == ["--training.learning_rate"]
    assert completed("accelerate", "launch", "recipes/lora.py", "--lora.lora_a") == ["--lora.lora_alpha"]
    assert completed("python", "recipes/prompt_tuning.py", "--lora.r") == []
    assert completed("python", "other.py", "--training.le") == []
    assert completed("python", "./my-recipe.py", "--training.le") == []
    assert completed("python", "recipes/lora.py", "configs") == []


def test_the_first_keys_are_keys() -> None:
    from softprompts.config import sections

    kinds = {
        "model": sections.ModelConfig,
        "task": sections.TaskConfig,
        "training": sections.TrainingConfig,
        "evaluation": sections.EvaluationConfig,
        "run": sections.RunConfig,
    }
    for section, names in FIRST.items():
        assert set(names) <= set(kinds[section].__dataclass_fields__)


def test_public_names_are_those_of_their_modules() -> None:
    import softprompts

    for name in softprompts.__all__:
        assert getattr(softprompts, name) is not None
    with pytest.raises(AttributeError):
        softprompts.no_such_name  # noqa: B018
