"""The rows to forget: by place or by value, and the rows that are nearly the same."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softprompts.config.tools import ForgetConfig
from softprompts.data.readers import read_text
from softprompts.data.values import plain
from softprompts.data.without import fingerprint, normalised, text_of, values_of
from softprompts.errors import UserError, listed, nearest, short
from softprompts.readiness.overlap import SHORTEST, SIMILAR, shingles
from softprompts.tasks.task import Task


@dataclass(frozen=True)
class Line:
    """A row in use: its split, its place, and the text that is fingerprinted, which no record keeps."""

    split: str
    place: str
    text: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the text."""
        return fingerprint(self.text)


@dataclass(frozen=True)
class Repeated:
    """A row that nearly repeats one that was named: the place of that one, and the Jaccard similarity of both texts."""

    line: Line
    like: str
    similarity: float


@dataclass(frozen=True)
class Forgotten:
    """The rows to forget: those that were named, and those that nearly repeat one of them."""

    named: list[Line]
    repeated: list[Repeated]

    @property
    def lines(self) -> list[Line]:
        """All rows, the named ones first."""
        return [*self.named, *(row.line for row in self.repeated)]

    @property
    def fingerprints(self) -> set[str]:
        """The fingerprints of all rows."""
        return {line.fingerprint for line in self.lines}


def lines_of(task: Task) -> Iterator[Line]:
    """Yield the rows of all splits with the texts that are fingerprinted."""
    text = text_of(task.config.prompt, task.config.target)
    for split, rows in task.splits.items():
        for row in rows:
            yield Line(split, row.place, text(row.record))


def rows_to_forget(config: ForgetConfig, task: Task) -> Forgotten:
    """Return the named rows, and the rows of any split that nearly repeat one of them.

    Args:
        config: which rows are named.
        task: the rows as they are in the files, without masks for personal data.

    Raises:
        UserError: a place, a column or a value that no row has; no row; all rows of a split.
    """
    key = "forget.where" if config.where else "forget.rows"
    named = _by_place(config.rows, task) if config.rows is not None else set()
    named |= _by_value(config.where, task, config.exact) if config.where else set()
    lines = list(lines_of(task))
    chosen = [line for line in lines if line.place in named]
    if not chosen:
        raise UserError(f"{key}: no row matches, so there is nothing to forget")
    found = Forgotten(chosen, repeated(chosen, (one for one in lines if one.place not in named), config.similarity))
    for split, count in Counter(line.split for line in found.lines).items():
        if count == len(task.splits[split]):
            raise UserError(
                f"{key}: all {count:,} rows of {split} would be forgotten, with those that are nearly the same; name "
                "fewer rows"
            )
    return found


def _by_place(path: str, task: Task) -> set[str]:
    """Return the places that a file names."""
    places = {row.place for rows in task.splits.values() for row in rows}
    ends: defaultdict[str, list[str]] = defaultdict(list)
    for place in places:
        ends[Path(place).name].append(place)
    found = set()
    for number, line in enumerate(read_text(Path(path)).splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        same = [text] if text in places else [p for p in ends.get(Path(text).name, ()) if p.endswith(f"/{text}")]
        if not same:
            raise UserError(f"{path}:{number}: no row in use has the place {text}{nearest(Path(text).name, ends)}")
        if len(same) > 1:
            raise UserError(
                f"{path}:{number}: {len(same)} rows have the place {text}; write more of the path: {same[0]}"
            )
        found.add(same[0])
    if not found:
        raise UserError(f"{path}: names no row; write one place per line, such as train.jsonl:17")
    return found


def _by_value(where: dict[str, list[str]], task: Task, exact: bool) -> set[str]:
    """Return the places of rows that have one of the values in each column."""
    rows = [row for split in task.splits.values() for row in split]
    columns = dict.fromkeys(name for row in rows for name in row.record)
    for column in where:
        if column not in columns:
            raise UserError(f'forget.where: no row has a column "{column}"{nearest(column, columns)}')
    values = {
        row.place: {column: _spellings(row.record[column]) for column in where if column in row.record} for row in rows
    }
    for column, wanted in where.items():
        seen = {value for own in values.values() for value in own.get(column, ())}
        for value in wanted:
            if value not in seen:
                raise UserError(f'forget.where: no row in use has {column} "{value}"{nearest(value, seen)}')
    named = {place for place, own in values.items() if all(own.get(c, set()) & set(w) for c, w in where.items())}
    if not exact:
        _check_spellings(where, [own for place, own in values.items() if place not in named])
    return named


def _spellings(value: Any) -> set[str]:
    """Return the texts that name a value: as a template shows it and, for a list, each of its items."""
    items = value if isinstance(value, list) else ()
    return {str(plain(value))}.union(*map(_spellings, items))


def _check_spellings(where: dict[str, list[str]], staying: Iterable[dict[str, set[str]]]) -> None:
    """Raise `UserError` for a row that would be named, too, if its values were spelt as the wanted ones."""
    same = {column: {_alike(value) for value in wanted} for column, wanted in where.items()}
    near = []
    for own in staying:
        found = {column: {v for v in own.get(column, ()) if _alike(v) in alike} for column, alike in same.items()}
        if all(found.values()):
            near.append(found)
    for column, wanted in where.items():
        if others := sorted({value for found in near for value in found[column]} - set(wanted)):
            shown = listed([f'"{short(value)}"' for value in others])
            raise UserError(
                f"forget.where: {column} also has {shown} in rows that would stay; name it too, or set forget.exact to "
                "true if it is another one"
            )


def _alike(value: str) -> str:
    """Return a value for the search of other spellings: without spaces around it, in lower case, 17.0 as 17.

    Forms of Unicode characters that mean the same are one form (NFKC), as in fingerprints.
    """
    text = normalised(value)
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


def quoted(text: str, rows: Forgotten, task: Task) -> str | None:
    """Return the place of a row to forget whose input a text holds; None if there is none.

    All values that `task.prompt` shows of the row are in the text, in any order. Short ones are whole words there.
    """
    whole = normalised(text)
    places = {line.place for line in rows.lines}
    for row in (row for split in task.splits.values() for row in split if row.place in places):
        values = values_of(task.config.prompt, row.record)
        if values and all(_holds(whole, value) for value in values):
            return row.place
    return None


def _holds(text: str, value: str) -> bool:
    if len(value) >= SHORTEST or value not in text:
        return value in text
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


def repeated(chosen: Sequence[Line], others: Iterable[Line], similarity: float = SIMILAR) -> list[Repeated]:
    """Return the other rows that repeat a chosen one: with its fingerprint, or nearly its text.

    Two texts are nearly the same if the Jaccard similarity of their runs of five characters is as large as
    `similarity`. This is for texts of 20 characters or more. All pairs with a common run are compared, so none is
    missed.
    """
    prints = {line.fingerprint: line.place for line in reversed(chosen)}
    pieces = [shingles(line.text) if len(line.text) >= SHORTEST else set() for line in chosen]
    index: defaultdict[str, list[int]] = defaultdict(list)
    for number, own in enumerate(pieces):
        for piece in own:
            index[piece].append(number)
    found = []
    for line in others:
        if (same := prints.get(line.fingerprint)) is not None:
            found.append(Repeated(line, same, 1.0))
            continue
        if len(line.text) < SHORTEST:
            continue
        own = shingles(line.text)
        common = Counter(number for piece in own for number in index.get(piece, ()))
        alike = [(count / (len(own) + len(pieces[n]) - count), -n) for n, count in common.items()]
        if alike and (best := max(alike))[0] >= similarity:
            found.append(Repeated(line, chosen[-best[1]].place, best[0]))
    return found
