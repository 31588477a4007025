"""Hooks for MkDocs: pages and their generated parts, tables as CSV, drawings, the pages about serving."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from scripts.build_docs.made import MADE
from scripts.build_docs.pages import DOCS, EXTRA, ROOT, SOURCE, Site, read_page
from scripts.build_docs.tables import unbroken, with_csv
from softprompts.errors import UserError

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

SERVING = "Serving"
# These pages are in the navigation if they exist.
SERVING_PAGES = ("serving.md", "deploy.md", "engines.md", "serving_prefixes.md", "serving_benchmark.md")
HELPER, OWN_HELPER = "https://unpkg.com/iframe-worker/shim", "vendor/iframe-worker.js"
DRAWING = re.compile(r"^!\[([^\]]*)\]\(([\w./-]+\.svg)\)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the existing pages about serving to the navigation."""
    for section in config.nav or ():
        if SERVING in section:
            section[SERVING] = [page for page in SERVING_PAGES if (ROOT / DOCS / page).is_file()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make every page, and add the files that pages link to."""
    site = Site()
    try:
        for place in EXTRA:
            files.append(File.generated(config, place, content=read_page(site, place, MADE)))
        for file in files.documentation_pages():
            if file.src_uri not in EXTRA:
                file.content_string = read_page(site, file.src_uri, MADE)
    except UserError as error:
        raise PluginError(str(error)) from error
    for file in list(files.documentation_pages()):
        if file.src_uri.startswith("results/"):
            text, tables = with_csv(file.content_string, file.src_uri)
            file.content_string = text
            for place, content in tables.items():
                files.append(File.generated(config, place, content=content))
    for path in sorted(site.copies):
        files.append(_copy(path, config))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put drawings into the page itself, with the page's colours; keep numbers and units together."""
    return unbroken(DRAWING.sub(lambda found: _drawing(found[2], found[1]), markdown))


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """For pages opened as files, load the search's helper from the site; the theme would need a network."""
    return output.replace(HELPER, f"{'../' * page.url.count('/')}{OWN_HELPER}")


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same for the page about missing addresses."""
    return output_content.replace(HELPER, OWN_HELPER)


def _drawing(path: str, text: str) -> str:
    drawing = (ROOT / DOCS / "figures" / Path(path).name).read_text(encoding="utf-8")
    return f'<figure class="drawing" aria-label="{html.escape(text)}">\n{drawing.strip()}\n</figure>'


def _copy(path: str, config: MkDocsConfig) -> File:
    if (ROOT / path).is_dir():
        return File.generated(config, f"{SOURCE}/{path}/index.html", content=_listing(path))
    return File.generated(config, f"{SOURCE}/{path}", content=(ROOT / path).read_bytes())


def _listing(path: str) -> str:
    """Return a page with the names of a folder's files."""
    names = sorted(p.relative_to(ROOT / path).as_posix() for p in (ROOT / path).rglob("*") if _kept(p))
    lines = "\n".join(f"<li>{html.escape(name)}</li>" for name in names)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{path}</title><h1>{path}</h1><p>In the repository this folder has {len(names)} files.</p>"
        f"<ul>{lines}</ul></html>"
    )


def _kept(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts
