"""What makes numbers meaningless, said before anything is trained: one line each, on standard error."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from softprompts.errors import UserError, listed, short, warn
from softprompts.tasks.templates import Row

# With fewer rows of a label, which of them happen to be in train decides what is learnt of it: two seeds of the split
# tell different stories. Few-shot work calls 1 to 5 rows a label "few".
RARE = 5
# `choices: from_train` with more targets than this, and than half of its rows, has found free text, no labels.
LABELS = 20


class Scored(Protocol):
    """What is scored: an `encoding.Example`."""

    @property
    def row(self) -> Row: ...


def check_labels(labels: Sequence[str]) -> None:
    """Raise `UserError` if the targets of train, one a row, are too many different ones to be labels."""
    distinct = len(set(labels))
    if distinct > max(LABELS, len(labels) / 2):
        raise UserError(
            f"task.choices: from_train finds {distinct:,} different targets in {len(labels):,} rows: "
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


def warn_of_look_alikes(choices: Sequence[str]) -> None:
    """Warn of labels found in train that a reader would take for one: 1 and 1.0, "Yes" and "yes", true and True."""
    seen: dict[object, str] = {}
    for choice in choices:
        text = choice.strip().casefold()
        try:
            meant: object = float(text)
        except ValueError:
            meant = text
        if (other := seen.setdefault(meant, choice)) != choice:
            warn(f"task.choices: from_train takes {short(other)!r} and {short(choice)!r} for two labels")


def warn_of_rows(splits: Mapping[str, Sequence[Row]], choices: Sequence[str] | None, prompt: str) -> None:
    """Warn of rows that make the numbers of a task meaningless.

    - all rows of a split have one target: always saying it is right;
    - labels with fewer than `RARE` rows in train;
    - rows of validation or test whose prompt is in train, too: they are known, not predicted;
    - columns of the prompt that are empty in some rows.
    """
    if choices is not None and len(choices) == 1:
        warn(f'task.choices: "{short(choices[0])}" is the only choice: every answer is right')
    for split, rows in splits.items():
        targets = {row.target for row in rows}
        if len(targets) == 1 and not (choices and len(choices) == 1):
            what = "nothing else is learnt" if split == "train" else "who always says it scores 100 %"
            count = f"all {len(rows):,} rows have" if len(rows) > 1 else "the only row has"
            warn(f'task.{split}: {count} the target "{short(targets.pop())}": {what}')
        _warn_of_empty(split, rows, prompt)
    counts = Counter(row.target for row in splits["train"])
    rare = [choice for choice in choices or () if counts[choice] < RARE]
    if rare and len(counts) > 1:
        named = listed(f"{choice.strip()} ({counts[choice]})" for choice in sorted(rare, key=lambda c: counts[c])[:5])
        warn(f"task.train: {len(rare)} of {len(choices or ())} choices have fewer than {RARE} rows, e.g. {named}")
    known = {row.prompt for row in splits["train"]}
    for split, rows in splits.items():
        same = [row for row in rows if row.prompt in known]
        if same and split != "train":
            warn(f"task.{split}: {len(same):,} of {len(rows):,} prompts are in train, too, e.g. {same[0].place}")


def _warn_of_empty(split: str, rows: Sequence[Row], prompt: str) -> None:
    for column in dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(prompt) if name):
        empty = [row for row in rows if isinstance(text := row.record.get(column), str) and not text.strip()]
        if empty:
            count = f"{len(empty):,} of {len(rows):,} rows"
            warn(f'task.{split}: "{short(column)}" is empty in {count}, e.g. {empty[0].place}')


def warn_of_first_rows(key: str, split: str, taken: Sequence[str], whole: Sequence[str]) -> None:
    """Warn if the first rows of a split are no sample of it, since the file is sorted by target.

    Args:
        key: the setting that takes the first rows only.
        split: the split.
        taken: targets of these rows, in order.
        whole: targets of the whole split.
    """
    distinct, all_distinct = len(set(taken)), len(set(whole))
    # In a sorted file each target makes one run. Several short runs come by chance, too.
    runs = 1 + sum(a != b for a, b in pairwise(taken))
    if distinct < all_distinct and runs == distinct and len(taken) >= (2 if distinct == 1 else 5 * distinct):
        warn(
            f"{key}: the first {len(taken):,} rows of {split} have {distinct} of its {all_distinct} targets: "
            "the file seems sorted; shuffle it"
        )


def warn_of_scored_rows(key: str, examples: Sequence[Scored], count: int | None) -> None:
    """Warn if the first `count` examples of validation, which choose something, are no sample of it."""
    targets = [example.row.target for example in examples]
    warn_of_first_rows(key, "validation", targets[:count], targets)
