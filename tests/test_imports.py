"""Imports point one way, against the flow of data, and files stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "softprompts"

# In the order that data flows: a module imports only what stands above it.
ORDER = (
    "errors",
    "memory",
    "files",
    "locks",
    "streams",
    "logs",
    "keys",
    "config",
    "bundled",
    "base_identity",
    "output_names",
    "models",
    "strict_json",
    "values",
    "parquet",
    "readers",
    "splits",
    "scoring",
    "templates",
    "schemas",
    "data_checks",
    "tasks",
    "batching",
    "endings",
    "encoding",
    "prompts.initial",
    "prompts.prefix",
    "prompts.encoder",
    "prompts.multitask",
    "prompts.states",
    "prompts.cache",
    "prompts.neighbours",
    "weights",
    "attention",
    "stock",
    "windows",
    "decoding",
    "preflight",
    "engine",
    "agreement",
    "evaluation",
    "hard_prompts",
    "probes",
    "fingerprints",
    "checkpoint_folders",
    "checkpoints",
    "folders",
    "runs",
    "adapter_configs",
    "adapter_checks",
    "adapters",
    "tryout",
    "energy",
    "candidates",
    "updates",
    "training",
    "sweeps",
    "results",
    "benchmark",
    "statistics",
    "ensembles",
    "contest",
    "reports.curves",
    "reports.sweep",
    "reports.run",
    "reports.tasks",
    "reports.benchmark",
    "reports.evidence",
    "reports.measures",
    "reports.claims",
    "reports.html",
    "reports.claims_card",
    "reports.papers",
    "reports.drawing",
    "reports.summary",
    "reports.figures",
    "reports.variants",
    "reports.singles",
    "reports.page",
    "reports.demo",
    "reports.contest",
)
LONGEST = 400  # lines


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


# `evaluate` loads metrics as scripts, away from the package; an __init__ must not pull modules in.
APART = sorted(p for p in PACKAGE.rglob("*.py") if p.name == "__init__.py" or p.parents[1].name == "metrics")
MODULES = sorted({module_name(p) for p in PACKAGE.rglob("*.py") if p not in APART})


def imported(text: str) -> Iterator[str]:
    """Yield what of softprompts a source imports, functions' own imports included: "config", "reports.curves"."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            whole = node.module or ""
            names = [f"{whole}.{n.name}" for n in node.names] if whole in PARENTS else [whole]
        elif isinstance(node, ast.Import):
            names = [n.name for n in node.names]
        else:
            continue
        yield from (n.removeprefix("softprompts.") for n in names if n.split(".")[0] == "softprompts")


PARENTS = {"softprompts", *(f"softprompts.{m.split('.')[0]}" for m in ORDER if "." in m)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from softprompts.config import cli", ["config"]),
        ("from softprompts import tasks, engine", ["tasks", "engine"]),
        ("from softprompts.reports import curves", ["reports.curves"]),
        ("import softprompts.runs", ["runs"]),
        ("def f():\n    from softprompts.runs import Run", ["runs"]),
        ("import json\nfrom softpromptsother import x", []),
    ],
)
def test_imports_are_found(text: str, expected: list[str]) -> None:
    assert list(imported(text)) == expected


def test_every_module_has_its_place() -> None:
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_up(module: str) -> None:
    text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    above = ORDER[: ORDER.index(module)]
    assert [name for name in imported(text) if name not in above] == []


@pytest.mark.parametrize("path", APART, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_what_stands_apart_imports_nothing_of_ours(path: Path) -> None:
    assert list(imported(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("folder", ["src", "recipes", "scripts", "tests"])
def test_no_file_is_long(folder: str) -> None:
    lines = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8").count("\n") for p in (ROOT / folder).rglob("*.py")}
    assert lines
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}
