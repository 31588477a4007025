"""Warn before training of data that would make the scores meaningless."""

from __future__ import annotations

import string
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from softprompts.data.values import Record
from softprompts.errors import UserError, listed, short, warn
from softprompts.tasks.templates import Row

import numpy

# With fewer rows of a label, the choice of the training rows decides how well it is learned, and two seeds of the split
# lead to different conclusions. Few-shot work calls 1 to 5 rows per label "few".
RARE = 5
# Targets are free text, not labels, if there are more of them than this and than half of the rows.
LABELS = 20


class Scored(Protocol):
    """A scored row: a `documents.Example`."""

    @property
    def row(self) -> Row: ...


def check_labels(labels: Counter[str]) -> None:
    """Raise `UserError` if there are too many targets to be labels. `labels` has the rows of each."""
    distinct, rows = len(labels), labels.total()
    if distinct > max(LABELS, rows / 2):
        raise UserError(
            f"task.choices: from_train finds {distinct:,} different targets in {rows:,} rows: "
            "these are not labels; remove task.choices for open targets"
        )


def check_distinct(choices: Sequence[str]) -> None:
    """Raise `UserError` if two choices are the same, or differ only in surrounding spaces."""
    seen: dict[str, str] = {}
    for choice in choices:
        if (other := seen.get(choice.strip())) is not None:
            how = "appears twice" if other == choice else f"and {short(other)!r} differ only in spaces"
            raise UserError(f"task.choices: {short(choice)!r} {how}, so predictions of the two could not be told apart")
        seen[choice.strip()] = choice


def look_alikes(choices: Sequence[str]) -> Iterator[str]:
    """Yield warnings of labels that probably mean the same: 1 and 1.0, "Yes" and "yes", true and True."""
    seen: dict[object, str] = {}
    for choice in choices:
        text = choice.strip().casefold()
        try:
            meant: object = float(text)
        except ValueError:
            meant = text
        if (other := seen.setdefault(meant, choice)) != choice:
            yield f"task.choices: from_train treats {short(other)!r} and {short(choice)!r} as two labels"


class Seen:
    """Facts about the rows of one split for warnings, collected row by row, because not all rows are in memory."""

    def __init__(self, split: str, prompt: str, choices: bool) -> None:
        """Start with the first row of a split.

        Args:
            split: the name of the split.
            prompt: the prompt template.
            choices: whether targets are choices, whose distinct values can be counted.
        """
        self.split = split
        self.rows = 0
        self.targets: Counter[str] = Counter()
        self._choices = choices
        self._columns = list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(prompt) if name))
        self._empty: dict[str, int] = {}
        self._first_empty: dict[str, str] = {}
        # 64-bit hashes: among a million prompts, two different ones share a hash in one of 40 million tasks.
        self.prompts = array("q")
        self.places: list[str] = []  # only of splits that are compared with train

    def add(self, place: str, prompt: str, target: str, record: Record) -> None:
        """Add a row."""
        self.rows += 1
        if self._choices or len(self.targets) < 2:
            self.targets[target] += 1
        for column in self._columns:
            if isinstance(text := record.get(column), str) and not text.strip():
                self._empty[column] = self._empty.get(column, 0) + 1
                self._first_empty.setdefault(column, place)
        self.prompts.append(hash(prompt))
        if self.split != "train":
            self.places.append(place)

    def same_target(self) -> Iterator[str]:
        """Yield a warning if all rows have one target."""
        if len(self.targets) == 1:
            what = "the model learns only this target" if self.split == "train" else "always predicting it scores 100 %"
            count = f"all {self.rows:,} rows have" if self.rows > 1 else "the only row has"
            yield f'task.{self.split}: {count} the target "{short(next(iter(self.targets)))}": {what}'

    def empty_columns(self) -> Iterator[str]:
        """Yield a warning for each column of the prompt that is empty in some rows."""
        for column in self._columns:
            if count := self._empty.get(column):
                place = self._first_empty[column]
                yield f'task.{self.split}: "{short(column)}" is empty in {count:,} of {self.rows:,} rows, e.g. {place}'

    def rare_choices(self, choices: Sequence[str]) -> Iterator[str]:
        """Yield a warning if choices have fewer than `RARE` rows."""
        rare = [choice for choice in choices if self.targets[choice] < RARE]
        if rare and len(self.targets) > 1:
            by_count = sorted(rare, key=lambda c: self.targets[c])[:5]
            named = listed(f"{choice.strip()} ({self.targets[choice]})" for choice in by_count)
            count = f"{len(rare)} of {len(choices)} choices have fewer than {RARE} rows"
            yield f"task.{self.split}: {count}, e.g. {named}"

    def known(self, train: Seen) -> Iterator[str]:
        """Yield a warning if prompts also occur in train."""
        same = numpy.isin(numpy.frombuffer(self.prompts, "q"), numpy.frombuffer(train.prompts, "q")).nonzero()[0]
        if len(same):
            where = self.places[same[0]]
            yield f"task.{self.split}: {len(same):,} of {self.rows:,} prompts also occur in train, e.g. {where}"


def row_warnings(splits: Mapping[str, Seen], choices: Sequence[str] | None) -> list[str]:
    """Return warnings of rows that make the scores of a task meaningless.

    - all rows of a split have one target, so always predicting it is right;
    - labels with fewer than `RARE` rows in train;
    - rows of validation or test whose prompt also occurs in train, so the model may know them;
    - columns of the prompt that are empty in some rows.
    """
    said = []
    if only := choices is not None and len(choices) == 1:
        said.append(f'task.choices: "{short((choices or ("",))[0])}" is the only choice, so every prediction is right')
    for seen in splits.values():
        said += [*(() if only else seen.same_target()), *seen.empty_columns()]
    train = splits["train"]
    said += train.rare_choices(choices or ())
    for seen in splits.values():
        said += seen.known(train) if seen is not train else ()
    return said


def first_rows_warning(key: str, split: str, taken: Sequence[str], whole: Collection[str]) -> Iterator[str]:
    """Yield a warning if the first rows of a split do not represent it because the file is sorted by target.

    Args:
        key: the setting that selects the first rows.
        split: the split.
        taken: targets of these rows, in order.
        whole: targets of the whole split.
    """
    distinct, all_distinct = len(set(taken)), len(set(whole))
    if distinct < all_distinct and is_sorted(taken):
        yield (
            f"{key}: the first {len(taken):,} rows of {split} have {distinct} of its {all_distinct} targets: "
            "the file seems sorted; shuffle it"
        )


def is_sorted(targets: Sequence[str]) -> bool:
    """Return whether rows seem sorted: the rows of each target are adjacent, and too many for chance."""
    distinct = len(set(targets))
    runs = 1 + sum(a != b for a, b in pairwise(targets))
    return runs == distinct and len(targets) >= (2 if distinct == 1 else 5 * distinct)


def warn_of_scored_rows(key: str, examples: Sequence[Scored], count: int | None) -> None:
    """Warn if the first `count` examples of validation, which serve for a choice, do not represent it."""
    targets = [example.row.target for example in examples]
    for text in first_rows_warning(key, "validation", targets[:count], targets):
        warn(text)
