"""A library that a notebook can use: it neither prints nor exits, and importing it changes nothing in the process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers import ROOT, recipe_environment

import pytest

SOURCE = ROOT / "src" / "softprompts"
# Programs, and modules of the recipes' command line: they may print and exit.
PROGRAMS = {"__main__.py", "config/cli.py", "system/streams.py"}
WITH_A_PROGRAM = {"models/bundled.py", "methods/preflight.py", "evaluation/library.py"}  # in their main()
ENDS = {"print", "SystemExit", "sys.exit", "os._exit", "exit", "quit"}


def calls(tree: ast.AST) -> Iterator[str]:
    """Yield the names of called functions and raised exceptions."""
    for node in ast.walk(tree):
        found = node.func if isinstance(node, ast.Call) else node.exc if isinstance(node, ast.Raise) else None
        if found is not None:
            yield ast.unparse(found)


def offences(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.relative_to(SOURCE).as_posix() in WITH_A_PROGRAM:
        is_program = (ast.If, ast.FunctionDef)  # `if __name__ == "__main__":`
        tree.body = [n for n in tree.body if not (isinstance(n, is_program) and getattr(n, "name", "main") == "main")]
    return [f"{path.relative_to(SOURCE)}: {name}" for name in calls(tree) if name in ENDS]


def test_the_library_neither_prints_nor_exits() -> None:
    paths = [path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).as_posix() not in PROGRAMS]
    assert len(paths) > 60
    assert [offence for path in paths for offence in offences(path)] == []


@pytest.mark.parametrize(
    "line", ["print('x')", "raise SystemExit", "raise SystemExit(2)", "import sys; sys.exit(1)", "exit()"]
)
def test_such_a_line_is_found(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "a.py").write_text(f"def f():\n    {line}\n", encoding="utf-8")
    assert offences(tmp_path / "a.py")


IMPORTS = """
import ast, importlib, logging, pathlib, signal, sys, warnings

source = pathlib.Path(sys.argv[1])
# vLLM imports our connector, in an environment of its own.
files = sorted(file for file in source.rglob("*.py") if file.name != "vllm_connector.py")
# Other libraries may do what they like at import; they are imported first.
for file in files:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module else []
        for name in names:
            if not name.startswith(("softprompts", "codecarbon", "msvcrt")):
                importlib.import_module(name)
import matplotlib, peft, transformers

def state():
    return {
        "sys.path": [*sys.path],
        "warnings.filters": [*warnings.filters],
        "handlers of the root logger": [*logging.getLogger().handlers],
        "level of the root logger": logging.getLogger().level,
        "log of softprompts": [*logging.getLogger("softprompts").handlers, logging.getLogger("softprompts").level],
        "matplotlib's backend": dict.__getitem__(matplotlib.rcParams, "backend"),
        "signal handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
    }

before = state()
for file in files:
    name = ".".join(file.relative_to(source.parent).with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
    for key, value in state().items():
        if value != before[key]:
            print(f"{name} changes {key}: {value}")
            before[key] = value
"""


@pytest.mark.slow
def test_an_import_changes_nothing_in_the_process() -> None:
    found = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(SOURCE)],
        env=recipe_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (found.stdout, found.returncode) == ("", 0), found.stderr
