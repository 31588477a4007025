"""Generate the reference of settings from the dataclasses of the recipes' sections, and their docstrings."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import Field, fields
from typing import Any, get_type_hints

from scripts.build_docs.pages import ROOT
from softprompts.config.help import default_of
from softprompts.config.messages import describe

from docstring_parser import parse

SHARED = ("model", "task", "training", "evaluation", "run")


@functools.cache
def sections_of(recipe: str) -> dict[str, type]:
    """Return a recipe's sections of settings, with their dataclasses."""
    spec = importlib.util.spec_from_file_location(f"recipe_{recipe}", ROOT / "recipes" / f"{recipe}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: hint for name, hint in get_type_hints(module.main).items() if name != "return"}


def all_sections() -> dict[type, tuple[list[str], list[str]]]:
    """Return each dataclass with the names of its sections and its recipes, shared sections first."""
    found: dict[type, tuple[list[str], list[str]]] = {}
    for path in sorted((ROOT / "recipes").glob("*.py")):
        for name, kind in sections_of(path.stem).items():
            names, recipes = found.setdefault(kind, ([], []))
            for known, one in ((names, name), (recipes, path.stem)):
                if one not in known:
                    known.append(one)
    order = {name: number for number, name in enumerate(SHARED)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[1][0][0], len(order)), item[1][0][0])))


def anchor(kind: type) -> str:
    """Return the anchor of a section on the page. Several dataclasses may share a name."""
    return kind.__name__.lower()


def sections() -> str:
    """Return the reference: a heading for each section, a definition for each key."""
    return "\n\n".join(_section(kind, *where) for kind, where in all_sections().items())


def _section(kind: type, names: list[str], recipes: list[str]) -> str:
    document = parse(kind.__doc__ or "")
    meanings = {item.arg_name: item.description or "" for item in document.params}
    title = ", ".join(f"`{name}`" for name in names)
    used = ", ".join(f"[{recipe}](docs/recipes/{recipe}.md)" for recipe in recipes)
    hints = get_type_hints(kind)
    keys = [_key(names[0], f, hints[f.name], meanings.get(f.name, "")) for f in fields(kind) if f.init]
    head = f"## {title}: {kind.__name__} {{ #{anchor(kind)} }}"
    return "\n\n".join([head, _escaped(document.short_description or ""), f"Recipes: {used}.", *keys])


def _key(section: str, item: Field[Any], hint: Any, meaning: str) -> str:
    text = " ".join(_escaped(meaning).split())
    return f"`{section}.{item.name}`{{ .key }} {_escaped(describe(hint))}{_default(item)}\n:   {text}"


def _default(item: Field[Any]) -> str:
    text = default_of(item)
    return ", required" if text is None else f", default `{text}`"


def _escaped(text: str) -> str:
    """Escape a docstring's text for Markdown: bars, braces and angle brackets."""
    return text.replace("|", "\\|").replace("<", "&lt;")
