"""What makes numbers meaningless, said before anything is trained: one line each, on standard error."""

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

# With fewer rows of a label, which of them happen to be in train decides what is learnt of it: two seeds of the split
# tell different stories. Few-shot work calls 1 to 5 rows a label "few".
RARE = 5
# `choices: from_train` with more targets than this, and than half of its rows, has found free text, no labels.
LABELS = 20


class Scored(Protocol):
    """What is scored: a `documents.Example`."""

    @property
    def row(self) -> Row: ...


def check_labels(labels: Counter[str]) -> None:
    """Raise `UserError` if the targets of train, each with its number of rows, are too many to be labels."""
    distinct, rows = len(labels), labels.total()
    if distinct > max(LABELS, rows / 2):
        raise UserError(
            f"task.choices: from_train finds {distinct:,} different targets in {rows:,} rows: "
            "these are no labels; remove task.choices for answers of any text"
        )


def check_distinct(choices: Sequence[str]) -> None:
    """Raise `UserError` if two choices are the same, or differ in the spaces around them only: both read alike."""
    seen: dict[str, str] = {}
    for choice in choices:
        if (other := seen.get(choice.strip())) is not None:
            how = "stands there twice" if other == choice else f"and {short(other)!r} differ in spaces only"
            raise UserError(f"task.choices: {short(choice)!r} {how}: answers of the two could not be told apart")
        seen[choice.strip()] = choice


def look_alikes(choices: Sequence[str]) -> Iterator[str]:
    """Yield warnings of labels that a reader would take for one: 1 and 1.0, "Yes" and "yes", true and True."""
    seen: dict[object, str] = {}
    for choice in choices:
        text = choice.strip().casefold()
        try:
            meant: object = float(text)
        except ValueError:
            meant = text
        if (other := seen.setdefault(meant, choice)) != choice:
            yield f"task.choices: from_train takes {short(other)!r} and {short(choice)!r} for two labels"


class Seen:
    """What there is to say of the rows of one split, gathered row by row: not all of them are in memory."""

    def __init__(self, split: str, prompt: str, choices: bool) -> None:
        """Look at a split, whose template of a prompt is given.

        Args:
            split: its name.
            prompt: the template.
            choices: whether its targets are choices, so that there are few of them to count.
        """
        self.split = split
        self.rows = 0
        self.targets: Counter[str] = Counter()
        self._choices = choices
        self._columns = list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(prompt) if name))
        self._empty: dict[str, int] = {}
        self._first_empty: dict[str, str] = {}
        # Hashes of 64 bits: of a million prompts, two different ones share one once in 40 million tasks.
        self.prompts = array("q")
        self.places: list[str] = []  # of those splits that are compared with train

    def add(self, place: str, prompt: str, target: str, record: Record) -> None:
        """Take a row."""
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
            what = "nothing else is learnt" if self.split == "train" else "who always says it scores 100 %"
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
        """Yield a warning if prompts are in train, too."""
        same = numpy.isin(numpy.frombuffer(self.prompts, "q"), numpy.frombuffer(train.prompts, "q")).nonzero()[0]
        if len(same):
            where = self.places[same[0]]
            yield f"task.{self.split}: {len(same):,} of {self.rows:,} prompts are in train, too, e.g. {where}"


def row_warnings(splits: Mapping[str, Seen], choices: Sequence[str] | None) -> list[str]:
    """Return warnings of rows that make the numbers of a task meaningless.

    - all rows of a split have one target: always saying it is right;
    - labels with fewer than `RARE` rows in train;
    - rows of validation or test whose prompt is in train, too: they are known, not predicted;
    - columns of the prompt that are empty in some rows.
    """
    said = []
    if only := choices is not None and len(choices) == 1:
        said.append(f'task.choices: "{short((choices or ("",))[0])}" is the only choice: every answer is right')
    for seen in splits.values():
        said += [*(() if only else seen.same_target()), *seen.empty_columns()]
    train = splits["train"]
    said += train.rare_choices(choices or ())
    for seen in splits.values():
        said += seen.known(train) if seen is not train else ()
    return said


def first_rows_warning(key: str, split: str, taken: Sequence[str], whole: Collection[str]) -> Iterator[str]:
    """Yield a warning if the first rows of a split are no sample of it, since the file is sorted by target.

    Args:
        key: the setting that takes the first rows only.
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
    """Say whether rows seem to be sorted: each target makes one run, and not a short one, which comes by chance."""
    distinct = len(set(targets))
    runs = 1 + sum(a != b for a, b in pairwise(targets))
    return runs == distinct and len(targets) >= (2 if distinct == 1 else 5 * distinct)


def warn_of_scored_rows(key: str, examples: Sequence[Scored], count: int | None) -> None:
    """Warn if the first `count` examples of validation, which choose something, are no sample of it."""
    targets = [example.row.target for example in examples]
    for text in first_rows_warning(key, "validation", targets[:count], targets):
        warn(text)
