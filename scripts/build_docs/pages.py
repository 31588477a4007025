"""Read the pages of the site: their sources, directives and links.

A page is Markdown in `docs/`, or one of the repository's own files in `EXTRA`. A line such as

    <!-- made: recipe prompt_tuning -->

is replaced by the output of the function of that name in `made.py`. Links are those of the repository: they work on a
Git host as well. On the site a link to a page leads to the page, and a link to any other file leads to a copy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from softprompts.errors import UserError, nearest

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
SOURCE = "source"  # the site's folder of copied files
# Pages that are files of the repository: their places on the site, and their sources.
EXTRA = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "data/sentiment.md": "data/sentiment/README.md",
    "data/home_commands.md": "data/home_commands/README.md",
    "data/docstrings.md": "data/docstrings/README.md",
    "data/compliance.md": "data/compliance/README.md",
    "data/localisation.md": "data/localisation/README.md",
    "data/analytics.md": "data/analytics/README.md",
    "data/support.md": "data/support/README.md",
    "data/campaign.md": "data/campaign/README.md",
    "results/claims.md": "results/report/claims.md",
    "results/comparisons.md": "results/report/tables.md",
    "results/study.md": "results/report/study.md",
    "results/targets.md": "results/report/targets.md",
}
# Parts of a report that a page of `docs/` includes.
WITHIN = {"results/report/summary.md": "results/benchmark.md", "results/report/papers.md": "results/papers.md"}
DIRECTIVE = re.compile(r"^<!-- made: (.+?) -->$", re.MULTILINE)
# Code is not changed: fenced blocks and spans.
CODE = re.compile(r"^```.*?^```$|^~~~.*?^~~~$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")

Made = Mapping[str, Callable[..., str]]


@dataclass
class Site:
    """The pages of a build, by their place on the site, and the files of the repository that they link to."""

    pages: dict[str, str] = field(default_factory=dict)
    copies: set[str] = field(default_factory=set)


def source_of(place: str) -> str:
    """Return the file of the repository that a page of the site comes from."""
    return EXTRA.get(place, f"{DOCS}/{place}")


def place_of(path: str) -> str:
    """Return the place on the site of a file of the repository, given its path from the root."""
    for place, source in EXTRA.items():
        if path == source:
            return place
    if path in WITHIN:
        return WITHIN[path]
    if path == DOCS or path.startswith(f"{DOCS}/"):
        return path.removeprefix(DOCS).lstrip("/")
    return f"{SOURCE}/{path}"


def read_page(site: Site, place: str, made: Made) -> str:
    """Return a page in the form of the site, and add it to the site."""
    source = source_of(place)
    text = (ROOT / source).read_text(encoding="utf-8")
    text = expand(text, made, source)
    site.pages[place] = moved(site, text, source, place)
    return site.pages[place]


def expand(text: str, made: Made, source: str) -> str:
    """Replace each directive by its output, whose links are relative to the root of the repository.

    Raises:
        UserError: a directive is unknown or has wrong arguments.
    """

    def result(found: re.Match[str]) -> str:
        name, *arguments = found[1].split()
        if name not in made:
            raise UserError(f"{source}: no directive {name}{nearest(name, made)}")
        try:
            text = made[name](*arguments)
        except TypeError as error:
            raise UserError(f"{source}: <!-- made: {found[1]} -->: {error}") from error
        return from_root(text, Path(source).parent)

    return DIRECTIVE.sub(result, text)


def from_root(text: str, folder: Path) -> str:
    """Change links from the root of the repository to links from a folder."""
    return linked(text, lambda target: os.path.relpath(target, folder))


def moved(site: Site, text: str, source: str, place: str) -> str:
    """Return a page with the links of the site. Files that are not pages are added to the site's copies."""

    def target(found: str) -> str:
        path = os.path.normpath(os.path.join(os.path.dirname(source), found))  # noqa: PTH118, PTH120 - of text
        if not (ROOT / path).exists():
            raise UserError(f"{source}: links to {found}, which does not exist")
        there = place_of(path)
        if there.startswith(SOURCE):
            site.copies.add(path)
            there += "/index.html" if (ROOT / path).is_dir() else ""
        return os.path.relpath(there, os.path.dirname(place) or ".")  # noqa: PTH120 - of text

    return linked(text, target)


def linked(text: str, change: Callable[[str], str]) -> str:
    """Change the targets of relative links and images. Addresses, anchors on the page, and code stay."""

    def changed(found: re.Match[str]) -> str:
        path, mark, place = found[1].partition("#")
        return found[0] if "://" in path or not path else f"]({change(path)}{mark}{place})"

    parts, start = [], 0
    for code in CODE.finditer(text):
        # A link's text may be code: "[`x`](y)". Its target follows the span, so it is found.
        parts += [LINK.sub(changed, text[start : code.start()]), code[0]]
        start = code.end()
    return "".join([*parts, LINK.sub(changed, text[start:])])
