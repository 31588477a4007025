"""Tables and sizes as text, for everything that this package writes for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. No cell can break it: line ends become spaces, and bars are escaped."""
    lines = [" | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) for row in (head, *rows)]
    return "\n".join([f"| {lines[0]} |", "|" + "---|" * len(head), *(f"| {line} |" for line in lines[1:])])


def size(count: float) -> str:
    """Return bytes as KiB or MiB."""
    if count < 2**20:
        return f"{count / 1024:.0f} KiB" if count else "0"
    return f"{count / 2**20:.1f} MiB"


def put(page: Path, mark: str, made: str) -> None:
    """Write a text between its two marks in a page."""
    begin, end = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}{made}\n{end}{after}", encoding="utf-8")
