"""Write generated parts into pages that people write."""

from __future__ import annotations

from pathlib import Path


def put(page: Path, mark: str, made: str) -> None:
    """Write a text between its two marks in a page."""
    begin, end = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}{made}\n{end}{after}", encoding="utf-8")
