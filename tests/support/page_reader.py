"""Read a page of HTML: check the nesting of its elements and that it loads no file, and return its tables' cells."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "link", "img", "input"}


class Reader(HTMLParser):
    """Reads a page: its elements, their nesting, and the cells of its tables by their label."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.label = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.seen.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "div" and values.get("role") == "region":
            self.label = str(values["aria-label"])
        elif tag == "table":
            assert self.open[-2] == "div", "a table scrolls in a box of its own"
            self.tables[self.label] = []
        elif tag == "tr":
            self.tables[self.label].append([])
        elif tag in ("th", "td"):
            self.tables[self.label][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"th", "td"} & set(self.open):
            self.tables[self.label][-1][-1] += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def assert_alone(page: str) -> None:
    """Check that a page loads no other file."""
    reader = read(page)
    assert not {tag for tag, _ in reader.seen} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    targets = [v for _, values in reader.seen for k, v in values.items() if k in ("src", "href", "xlink:href")]
    assert targets
    assert [t for t in targets if not str(t).startswith("#")] == []
    assert not re.search(r"url\((?!#)|@import", page)
    policy = [v["content"] for tag, v in reader.seen if tag == "meta" and "http-equiv" in v]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
