"""Parse tables in Markdown pages, and write them as CSV."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pandas

# A header line, a rule, and rows.
TABLE = re.compile(r"^\|.*\|\n\|[-:| ]+\|\n(?:\|.*\|(?:\n|\Z))+", re.MULTILINE)
# Spaces that do not break a cell.
BREAKS = re.compile(r"(?<=\d) (?=[±%]|to |[KMG]iB|s\b|min\b)|(?<=±) (?=\d)|(?<=\bto) (?=[\d+−])")
CELL = re.compile(r"(?<!\\)\|")


def parse_table(markdown: str) -> pandas.DataFrame:
    """Return a Markdown table as text; links become their names."""
    head, _, *rows = [[_plain(c) for c in CELL.split(line.strip())[1:-1]] for line in markdown.strip().splitlines()]
    return pandas.DataFrame(rows, columns=pandas.Index(head))


def _plain(cell: str) -> str:
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", cell).replace("\\|", "|").replace("`", "").strip()


def with_csv(page: str, place: str) -> tuple[str, dict[str, str]]:
    """Return a page with a link to each table's CSV file, and these files by their places on the site."""
    stem = PurePosixPath(place).stem
    files: dict[str, str] = {}

    def add(found: re.Match[str]) -> str:
        name = f"{stem}-{len(files) + 1}.csv"
        files[f"{PurePosixPath(place).parent}/csv/{name}"] = parse_table(found[0]).to_csv(index=False)
        return f"{found[0].rstrip()}\n\n[this table as CSV](csv/{name}){{ .csv download }}\n"

    return TABLE.sub(add, page), files


def unbroken(page: str) -> str:
    """Return a page whose tables do not break lines inside "86.0 ± 0.7", or between a number and its unit."""
    return TABLE.sub(lambda table: BREAKS.sub("\u00a0", table[0]), page)
