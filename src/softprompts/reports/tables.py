"""Format tables in Markdown, and sizes as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; line breaks within a cell become spaces, and bars are escaped."""
    return "\n".join([_line(head), "|" + "---|" * len(head), *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    escaped = (" ".join(cell.split()).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def size(count: float) -> str:
    """Return bytes as KiB or MiB."""
    if count < 2**20:
        return f"{count / 1024:.0f} KiB" if count else "0"
    return f"{count / 2**20:.1f} MiB"
