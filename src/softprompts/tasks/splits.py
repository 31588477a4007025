"""Read the rows of a task once: render, check and write each row, and collect warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

from softprompts.config.sections import TaskConfig
from softprompts.data.readers import Source
from softprompts.data.sources import SPLITS, Reading
from softprompts.data.tables import Writer
from softprompts.data.values import Record
from softprompts.data.without import fingerprint, text_of
from softprompts.errors import UserError, nearest, short
from softprompts.tasks.checks import (
    Seen,
    check_distinct,
    check_labels,
    first_rows_warning,
    is_sorted,
    look_alikes,
    row_warnings,
)
from softprompts.tasks.privacy import Privacy
from softprompts.tasks.rows import RowWriter
from softprompts.tasks.schemas import target_check
from softprompts.tasks.templates import check_characters, render


class _Choices:
    """The possible targets of a task, as far as known: with `from_train`, only after train has been read."""

    def __init__(self, config: TaskConfig) -> None:
        self.config = config
        self.mapping: dict[str, str] | None = None
        self.words: tuple[str, ...] | None = None
        self.in_train: Counter[str] = Counter()
        self.left_out: set[str] = set()  # labels of rows of train that `task.without` names
        if isinstance(config.choices, dict):
            self.mapping = _mapping(config.choices)
            self._take(tuple(dict.fromkeys(self.mapping.values())))  # labels may share a word
        elif isinstance(config.choices, list):
            self._take(tuple(config.choices))

    @property
    def from_train(self) -> bool:
        return self.config.choices == "from_train"

    def _take(self, words: tuple[str, ...]) -> None:
        check_distinct(words)
        for text in words:
            check_characters("task.choices", text)
        self.words = words

    def end_of_train(self) -> list[str]:
        """Use the labels of train as choices, and return warnings about them."""
        if not self.from_train:
            return []
        check_labels(self.in_train)
        self._take(tuple(sorted(self.in_train)))
        return list(look_alikes(self.words or ()))

    @property
    def valid(self) -> Any:
        """The valid labels: all choices, or the labels that the mapping has for them; None if any label is valid."""
        return self.words if self.mapping is None else self.mapping

    def target(self, place: str, label: str) -> str:
        """Return the target of a row with this label."""
        if self.valid is not None and label not in self.valid:
            if label in self.left_out:
                raise UserError(
                    f'{place}: task.without names all rows of train with its label "{short(label)}", which thus is no '
                    "choice any more; leave out this row as well, or keep a row of train"
                )
            near = nearest(label, self.valid)
            advice = _advice(self.config)
            raise UserError(f'{place}: label "{short(label)}" is outside task.choices{near}{advice}')
        target = label if self.mapping is None else self.mapping[label]
        if not target.strip():
            raise UserError(f"{place}: the target is empty")
        return target


class _Split:
    """The rows of one split. Rows beyond `task.max_rows` are not written, but their labels count."""

    def __init__(self, name: str, config: TaskConfig, choices: _Choices, check: Any, writer: Writer) -> None:
        self.name, self.config, self.choices, self.check = name, config, choices, check
        self.limit = config.max_rows.get(name)
        self.writer = RowWriter(writer)
        self.seen = Seen(name, config.prompt, config.choices is not None)
        self.taken: list[str] = []  # labels of the first rows, if these may not represent all rows
        self.labels: set[str] = set()
        self.masked: Counter[str] = Counter()
        self.hidden, self.first_hidden = 0, ""  # rows whose target holds a mask, and the place of the first
        self.left_out: list[str] = []  # fingerprints of rows that `task.without` names
        self.is_closed = False  # whether a row came that is beyond the limit

    @property
    def is_full(self) -> bool:
        # A row that is left out does not count, so that deleting it from the file changes nothing.
        return self.writer.count == self.limit

    @property
    def is_settled(self) -> bool:
        """Whether the remaining rows cannot change anything."""
        if not self.is_full:
            return False
        return self.choices.valid is None or not is_sorted(self.taken) or self.labels.issuperset(self.choices.valid)

    def add(self, place: str, record: Record, masked: Counter[str]) -> None:
        if self.is_full:
            self.is_closed = True
            if self.config.choices is not None:
                with suppress(UserError):  # rows that are not used may lack a label
                    self.labels.add(render(self.config.target, record, place))
            return
        label = render(self.config.target, record, place)
        target = self.choices.target(place, label)
        if self.check:
            self.check(place, target)
        prompt = render(self.config.prompt, record, place)
        self.writer.add(place, prompt, target, record)
        self.seen.add(place, prompt, target, record)
        self.masked += masked
        if self.limit is not None and self.config.choices is not None:
            self.taken.append(label)
            self.labels.add(label)


def _check_target(split: _Split, place: str, read: Record, record: Record) -> None:
    """Note a row whose target is changed by masks; raise `UserError` for a label, without its text."""
    template = split.config.target
    if render(template, read, place) == render(template, record, place):
        return
    if split.config.choices is not None:
        raise UserError(
            f"{place}: task.pii is mask, which changes the label that task.target shows, {short(repr(template))}: "
            "different labels would be one; write labels without personal data, or set task.pii to keep"
        )
    split.hidden += 1
    split.first_hidden = split.first_hidden or place


def _hidden(splits: Iterable[_Split]) -> list[str]:
    """Return a warning of targets that hold masks, if there are any."""
    found = [split for split in splits if split.hidden]
    if not found:
        return []
    some = f"{sum(split.hidden for split in found):,} targets hold masks, e.g. {found[0].first_hidden}"
    return [f"task.pii: {some}: the model learns to write masks, and different values of two rows have the same mask"]


class _Without:
    """Applies `task.without` to rows as they are in the files, before personal data are masked."""

    def __init__(self, config: TaskConfig, fingerprints: Collection[str]) -> None:
        self.fingerprints = fingerprints
        self.text = text_of(config.prompt, config.target)

    def takes(self, record: Record, split: _Split) -> bool:
        """Return whether a row is left out; its split notes it as far as its rows are used."""
        if not self.fingerprints or (found := fingerprint(self.text(record))) not in self.fingerprints:
            return False
        if not split.is_closed:
            split.left_out.append(found)
        return True


def _fill(
    splits: dict[str, _Split], given: str, reading: Reading, choices: _Choices, privacy: Privacy, without: _Without
) -> UserError | None:
    """Add the rows of a source to its splits until they have enough; return the error of the first wrong row.

    The remaining rows are read as well, because `Reading` checks the columns and values of all rows.
    """
    fed = [splits[name] for name in reading.fed_by(given)]
    collects = choices.from_train and given == "train"
    wrong: UserError | None = None
    for batch in reading.rows(given, lambda: not collects and all(split.is_settled for split in fed)):
        try:
            for name, place, read in batch if wrong is None else ():
                if without.takes(read, splits[name]):
                    if collects:
                        choices.left_out.add(render(choices.config.target, read, place))
                    continue
                record, masked = privacy.clean(place, read)
                if masked and (collects or not splits[name].is_full):
                    _check_target(splits[name], place, read, record)
                if collects:
                    choices.in_train[render(choices.config.target, record, place)] += 1
                splits[name].add(place, record, masked)
        except UserError as error:
            wrong = error
    return wrong


def write_splits(
    config: TaskConfig,
    schema: dict[str, Any] | None,
    sources: dict[str, Source],
    writers: dict[str, Writer],
    fingerprints: Collection[str] = (),
) -> dict[str, Any]:
    """Write the rows of a task; return notes as JSON values: the facts for `StoredRows`, the choices, warnings.

    Reading stops at `task.max_rows`, unless labels must be found in the whole file. Rows whose fingerprints are given
    are left out.

    Raises:
        UserError: as `load_task`.
    """
    reading = Reading(config, sources)
    choices = _Choices(config)
    check = None if schema is None else target_check(schema)
    splits = {name: _Split(name, config, choices, check, writers[name]) for name in SPLITS}
    privacy, without = Privacy(config.pii), _Without(config, fingerprints)
    wrong: UserError | None = None
    warnings = []
    for given in reading.sources:
        found = _fill(splits, given, reading, choices, privacy, without)
        # A misspelt column in task.rename or task.where is reported first; it may be the cause of the error.
        if found and not (config.rename or config.where):
            raise found
        wrong = wrong or found
        if given == "train" and wrong is None:
            warnings += choices.end_of_train()
    reading.check()
    if wrong is not None:
        raise wrong
    for name, split in splits.items():
        if not split.writer.count:
            raise UserError(f"task.{name}: no rows{' are left, task.without names all' if split.left_out else ''}")
    warnings += row_warnings({name: split.seen for name, split in splits.items()}, choices.words)
    warnings += _hidden(splits.values())
    for name in config.max_rows:
        split = splits[name]
        warnings += first_rows_warning("task.max_rows", name, split.taken, split.labels)
    rows = {name: split.writer.close() for name, split in splits.items()}
    masked = {name: dict(sorted(split.masked.items())) for name, split in splits.items()}
    return rows | {
        "choices": choices.words,
        "held_out": reading.held_out,
        "masked": masked if config.pii == "mask" else {},
        "without": {name: sorted(split.left_out) for name, split in splits.items()} if fingerprints else {},
        "warnings": warnings,
    }


def _mapping(choices: dict[str, str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for label, word in choices.items():
        if str(label) in mapping:
            raise UserError(
                f'task.choices: "{short(label)}" appears twice, as a text and as another type: keep one of them, quoted'
            )
        mapping[str(label)] = word
    return mapping


def _advice(config: TaskConfig) -> str:
    """Return advice about labels that YAML reads as another type: yes and no as booleans, 007 as 7."""
    changed = isinstance(config.choices, dict) and not all(isinstance(key, str) for key in config.choices)
    return "; YAML reads some keys of task.choices as another type, such as yes as true: quote them" if changed else ""
