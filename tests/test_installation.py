"""What `pip install .` puts elsewhere works there: modules, metrics, embedded tasks; no commit of somebody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers import ROOT
from softprompts.__main__ import main

import pytest

PYTHONS = [f"python3.{minor}" for minor in (11, 12, 13)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package as a wheel leaves it, inside a git repository of somebody else's."""
    folder = tmp_path_factory.mktemp("theirs")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("src", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    target = folder / "site-packages"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, capture_output=True)
    shutil.rmtree(source)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    return target


def run(installed: Path, code: str) -> str:
    """Run code with the installed package first on the path, from a folder outside the clone."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=installed, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_nothing_is_missing(installed: Path) -> None:
    kinds = (".py", ".pyi", ".j2", ".css", ".json", ".yaml")
    here = {p.relative_to(ROOT / "src") for p in (ROOT / "src/softprompts").rglob("*") if p.suffix in kinds}
    assert here <= {p.relative_to(installed) for p in installed.rglob("*")}


@pytest.mark.slow
def test_embedded_tasks_metrics_and_schemas_are_found(installed: Path) -> None:
    code = """
import softprompts as sp
from softprompts.metrics.scoring import load_metrics
assert sp.__file__.startswith(%r), sp.__file__
task = sp.load_task(sp.TaskConfig(prompt="{text}", target=" {label}", dataset="embedded:sentiment"))
print(len(task.splits["test"]), *load_metrics(["accuracy"]), task.licence)
print(sp.load_task(sp.TaskConfig(prompt="{text}", target="{command}", dataset="embedded:home_commands",
    metrics=["json_object"], schema="embedded:home_commands/schema.json")).schema is not None)
"""
    first, second = run(installed, code % str(installed)).splitlines()
    assert int(first.split()[0]) > 1000
    assert "accuracy" in first
    assert second == "True"


@pytest.mark.slow
def test_the_commit_of_somebody_elses_repository_is_not_taken(installed: Path) -> None:
    assert run(installed, "from softprompts.runs.environment import commit; print(commit())") == "unknown"


def test_version_says_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    said = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert {"softprompts", "commit", "torch", "peft", "device", "dtype", "bundled"} <= said.keys()
    assert main([]) == 0
    assert "python recipes/prompt_tuning.py" in capsys.readouterr().out


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_of_the_metadata_reads_the_code(python: str, tmp_path: Path) -> None:
    program = shutil.which(python)
    if program is None or subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"{python} is not at hand")
    code = (
        "import ast, pathlib, sys; "
        "[ast.parse(p.read_text()) for f in sys.argv[1:] for p in pathlib.Path(f).rglob('*.py')]"
    )
    folders = [str(ROOT / name) for name in ("src", "recipes", "benchmarks", "scripts")]
    subprocess.run([program, "-W", "error", "-c", code, *folders], check=True, cwd=tmp_path)
    assert f'"Programming Language :: Python :: {python[-4:]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
