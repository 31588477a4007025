"""Read `law.yaml`: articles, dates, thresholds, sources, questions; and the answers of a person."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from softprompts.config.yaml_files import tree_of
from softprompts.errors import UserError, listed, nearest, short
from softprompts.readiness.plan import is_placeholder
from softprompts.system.files import is_file

import yaml

FILE = Path(__file__).with_name("law.yaml")
# Answers that programs read: the form of each, and its description for an error.
FORMS = {
    "dataset_url": ("https?://", "an address that begins with https://"),
    "model_licence": (r"[a-z0-9][a-z0-9.+-]*\Z", "the Hub's name for a licence, such as apache-2.0 or other"),
}


@dataclass(frozen=True)
class Source:
    """Where a fact comes from. `seen` says what was read of it: a copy, a summary, or nothing; `seen_at` names that."""

    key: str
    title: str
    url: str
    published: str
    checked: str
    seen: str
    seen_at: str


@dataclass(frozen=True)
class Threshold:
    """A number of a text, in words, and its source."""

    value: float
    text: str
    source: str


@dataclass(frozen=True)
class Base:
    """A base model with known training: parameters, tokens, the source, and what is missing in it."""

    parameters: int
    tokens: float
    source: str
    omits: str


@dataclass(frozen=True)
class Duty:
    """A duty and the date from which it applies. `concerns` are the answers with which it concerns somebody."""

    key: str
    title: str
    reference: str
    who: str
    applies_from: str
    sources: list[str]
    concerns: Mapping[str, list[str]]


@dataclass(frozen=True)
class Point:
    """A point of a part: what the record knows of it, by the names of `documents.FACTS`, and what a person must say."""

    key: str
    title: str
    question: str
    reference: str = ""
    known: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A part of the record: its points, and the text that asks for them."""

    key: str
    title: str
    source: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Law:
    """The content of `law.yaml`."""

    notice: str
    checked: str
    how: str
    sources: Mapping[str, Source]
    thresholds: Mapping[str, Threshold]
    bases: Mapping[str, Base]
    duties: tuple[Duty, ...]
    parts: Mapping[str, Part]

    @property
    def points(self) -> dict[str, Point]:
        """All points by their key."""
        return {point.key: point for part in self.parts.values() for point in part.points}


@cache
def read_law() -> Law:
    """Return the content of the package's `law.yaml`; dates are texts, as in ISO 8601."""
    tree: dict[str, Any] = _with_texts(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    return Law(
        notice=tree["notice"],
        checked=tree["checked"],
        how=tree["how"],
        sources={key: Source(key, **fields) for key, fields in tree["sources"].items()},
        thresholds={key: Threshold(**fields) for key, fields in tree["thresholds"].items()},
        bases={name: Base(**fields) for name, fields in tree["bases"].items()},
        duties=tuple(Duty(**fields) for fields in tree["duties"]),
        parts={key: _part(key, fields) for key, fields in tree["parts"].items()},
    )


def _with_texts(tree: Any) -> Any:
    """Return a tree of YAML with its dates as texts."""
    if isinstance(tree, dict):
        return {key: _with_texts(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_texts(value) for value in tree]
    return tree.isoformat() if isinstance(tree, date) else tree


def _part(key: str, fields: dict[str, Any]) -> Part:
    points = (
        Point(**(p | {"known": tuple(p.get("known", ())), "choices": tuple(p.get("choices", ()))}))
        for p in fields["points"]
    )
    return Part(key, fields["title"], fields["source"], tuple(points))


def read_answers(file: Path, law: Law) -> dict[str, str]:
    """Return the answers of a person by question; none if there is no file yet.

    Raises:
        UserError: malformed YAML; an unknown question; an answer that is no text, or none of the choices.
    """
    if not is_file(file):
        return {}
    tree = tree_of(file, str(file))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{file}: expected answers by question, found {short(tree)}")
    found = {}
    for key, value in tree.items():
        if key not in law.points:
            raise UserError(f'{file}: unknown question "{short(key)}"{nearest(str(key), law.points)}')
        if answer := _answer(file, law.points[key], value):
            found[str(key)] = answer
    return found


def _answer(file: Path, point: Point, value: Any) -> str:
    """Return an answer as text; empty if it is not given yet."""
    if isinstance(value, bool):  # YAML reads a bare yes or no as one
        value = "yes" if value else "no"
    if isinstance(value, date):
        value = value.isoformat()
    if value is not None and not isinstance(value, str):
        raise UserError(f"{file}: {point.key}: expected text, found {short(value)}; quote it")
    text = (value or "").strip()
    if is_placeholder(text):  # the question stays open
        return ""
    if point.choices and text not in point.choices:
        raise UserError(f'{file}: {point.key}: unknown answer "{short(text)}" (valid: {listed(point.choices)})')
    if point.key == "dataset_published":
        try:
            return date.fromisoformat(text).isoformat()  # 20260802 becomes 2026-08-02, as Croissant requires
        except ValueError:
            raise UserError(f"{file}: {point.key}: expected a date such as 2026-08-02, found {short(text)}") from None
    form, expected = FORMS.get(point.key, ("", ""))
    if not re.match(form, text):
        raise UserError(f"{file}: {point.key}: expected {expected}, found {short(text)}")
    return text


def empty_answers(law: Law) -> str:
    """Return the file for answers: each question as a comment, with an empty value."""
    lines = [
        "# Answers that only people can give. recipes/governance.py reads this file and never changes it.",
        "# Write the answer after the colon, in quotes or as a block of text, and run the command again.",
    ]
    for part in law.parts.values():
        lines += ["", f"# {part.title}"]
        for point in part.points:
            choices = f" ({' | '.join(point.choices)})" if point.choices else ""
            head = f"{point.reference}: " if point.reference else ""
            text = f"{head}{point.title}. {point.question}{choices}"
            lines += ["", *textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# "), f"{point.key}:"]
    return "\n".join(lines) + "\n"
