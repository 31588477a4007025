"""Read the rows of each split from files, embedded tasks and Hub datasets; rename, filter and hold out rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

from softprompts.config.sections import TaskConfig
from softprompts.data.readers import Source, numbered, open_file
from softprompts.data.tables import LARGE
from softprompts.data.values import Record, Unread, plain
from softprompts.errors import UserError, check_above_zero, listed, nearest, short
from softprompts.system.files import IS_CLONE, PROJECT

# `data/` in a clone; in an installation, the copy that `setup.py` put next to the modules.
DATA_DIR = PROJECT / "data" if IS_CLONE else Path(str(resources.files("softprompts") / "embedded"))
EMBEDDED_PREFIX = "embedded:"
SPLITS = ("train", "validation", "test")
HELD_OUT = 0.1  # share of train that is held out for a missing split


def open_sources(config: TaskConfig) -> dict[str, Source]:
    """Return the source of the rows of each given split.

    Raises:
        UserError: a file, a dataset or a split is missing; a number of rows is below 1; streams without a bound.
    """
    for key, given in (("max_rows", config.max_rows), ("other_datasets", config.other_datasets)):
        for split in given:
            if split not in SPLITS:
                raise UserError(f'task.{key}: unknown split "{split}"{nearest(split, SPLITS)}')
    for split, count in config.max_rows.items():
        check_above_zero(f"task.max_rows: {split}", count)
    if config.streaming:
        _check_streams(config)
    return {split: _open(config, split) for split in SPLITS if not _is_held_out(config, split)}


class Reading:
    """One pass over the rows of a task: call `rows` for each of `sources` in order, then `check`.

    Some rows of train are held out for splits that are not given. Once train has been read, `held_out` describes them
    in words.
    """

    def __init__(self, config: TaskConfig, sources: dict[str, Source]) -> None:
        """Prepare to read `open_sources(config)`."""
        self.config = config
        self.sources = sources
        self.held_out: list[str] = []
        self._columns: set[str] = set()

    def fed_by(self, given: str) -> list[str]:
        """Return the splits that a source has rows for: train also has those of splits that are held out."""
        return [given, *(split for split in SPLITS if split not in self.sources)] if given == "train" else [given]

    def rows(self, given: str, enough: Callable[[], bool] = lambda: False) -> Iterator[list[tuple[str, str, Record]]]:
        """Yield the rows of a source, (split, place, record), one batch at a time, until the caller has enough.

        Raises:
            UserError: the data is damaged; a column is missing; there are too few rows to hold some out.
        """
        where = {column: set[str]() for column in self.config.where}
        held = self.fed_by(given)[1:]
        counts = dict.fromkeys(self.fed_by(given), 0)
        whole = True
        for batch in self.sources[given].batches():
            found = []
            for place, row in batch:
                record = self._renamed(place, row) if self.config.rename else row
                if where and not self._is_wanted(place, record, where):
                    continue
                content = _content(record) if held else ""
                split = next((s for s in held if _share(content, s) < HELD_OUT), given)
                counts[split] += 1
                found.append((split, place, record))
            yield found
            settled = self._columns.issuperset(self.config.rename) and all(
                where[column].issuperset(wanted) for column, wanted in self.config.where.items()
            )
            if settled and enough():
                whole = False
                break
        for column, wanted in self.config.where.items():
            for value in wanted:
                if value not in where[column]:
                    near = nearest(value, where[column])
                    raise UserError(f'task.where: no {given} row has {column} "{value}"{near}')
        self._check_held_out(counts, held, whole)

    def check(self) -> None:
        """Raise `UserError` if no split has a column that `task.rename` names."""
        for old in self.config.rename:
            if old not in self._columns:
                raise UserError(f'task.rename: no split has a column "{old}"{nearest(old, self._columns)}')

    def _renamed(self, place: str, record: Record) -> Record:
        renamed: Record = {}
        for column, value in record.items():
            self._columns.add(column)
            new = self.config.rename.get(column, column)
            if new in renamed:
                there = listed(record)
                raise UserError(f'{place}: task.rename: there would be two columns "{new}"; columns are: {there}')
            renamed[new] = value
        return renamed

    def _is_wanted(self, place: str, record: Record, where: dict[str, set[str]]) -> bool:
        """Return whether a row fits `task.where`; `where` collects the values of the columns."""
        for column, wanted in self.config.where.items():
            if not where[column] and column not in record:
                raise UserError(f'task.where: no column "{column}"; columns are: {listed(record)}')
            value = record.get(column)
            if isinstance(value, Unread):
                raise UserError(f'{place}: task.where: column "{column}" holds {value.kind}')
            text = str(plain(value))
            where[column].add(text)
            if text not in wanted:
                return False
        return True

    def _check_held_out(self, counts: dict[str, int], held: list[str], whole: bool) -> None:
        total = sum(counts.values())
        for split in held:
            if whole and (not counts[split] or counts[split] == total):
                raise UserError(
                    f"task.{split}: too few rows ({total}) to hold some out of train, because each row is held out at "
                    "random with probability 0.1; name a separate file, or use 100 rows or more"
                )
            total -= counts[split]
            of = "train" if whole else f"the first {sum(counts.values()):,} rows of train"
            self.held_out.append(f"task: no {split} split; held out {counts[split]} rows of {of}")


def _is_held_out(config: TaskConfig, split: str) -> bool:
    """Return whether a split is not given, so that a part of train is held out for it."""
    embedded = (config.dataset or "").startswith(EMBEDDED_PREFIX)
    return split != "train" and not getattr(config, split) and split not in config.other_datasets and not embedded


def _check_streams(config: TaskConfig) -> None:
    """Raise `UserError` if nothing is streamed, or a split that is scored has no bound."""
    embedded = config.dataset is None or config.dataset.startswith(EMBEDDED_PREFIX)
    if embedded and not config.other_datasets:
        raise UserError("task.streaming: applies only to datasets of the Hub; set it to false, files are never copied")
    if missing := [split for split in ("validation", "test") if split not in config.max_rows]:
        raise UserError(f"task.streaming: task.max_rows has no {listed(missing)}; e.g. {{validation: 500, test: 1000}}")


def _open(config: TaskConfig, split: str) -> Source:
    name: str | None = getattr(config, split)
    if split in config.other_datasets:
        path, _, subset = config.other_datasets[split].partition(":")
        return _open_hub("task.other_datasets", path, subset or None, name or split, None, config.streaming)
    if config.dataset is None:
        if not name:
            raise UserError("task: set dataset, or train to a file")
        return open_file(name)
    if config.dataset.startswith(EMBEDDED_PREFIX):
        folder = DATA_DIR / config.dataset.removeprefix(EMBEDDED_PREFIX)
        if not (folder / "train.jsonl").is_file():
            embedded = [f"{EMBEDDED_PREFIX}{p.parent.name}" for p in DATA_DIR.glob("*/train.jsonl")]
            near = nearest(config.dataset, embedded)
            raise UserError(f"task.dataset: unknown embedded task {config.dataset}{near}")
        return open_file(folder / f"{name or split}.jsonl")
    if not name:
        raise UserError(f"task.train: name the split of {config.dataset} to train on, e.g. train")
    return _open_hub("task.dataset", config.dataset, config.subset, name, config.revision, config.streaming)


def _open_hub(key: str, path: str, subset: str | None, split: str, revision: str | None, streaming: bool) -> Source:
    if not path.strip():
        raise UserError(f"{key}: expected the id of a dataset, found an empty text")
    from softprompts.data.parquet import batches_of, streamed_batches

    import datasets  # takes a second, and is seldom needed

    try:
        if streaming:
            builder = datasets.load_dataset_builder(path, subset, revision=revision)
            stream = builder.as_streaming_dataset(split=split)
            # The library's own key of this data: it has the commit or, for local files, their sizes and times.
            content = f"{path} {split} {builder.cache_dir}"
            return Source(lambda: numbered(f"{path} {split}", streamed_batches(path, stream)), lambda: content, LARGE)
        table = datasets.load_dataset(path, subset, split=split, revision=revision)
    except Exception as error:  # many kinds of network, naming and parsing errors
        raise UserError(
            f"{key}: cannot load {path}: {short(str(error).strip().partition(chr(10))[0]) or type(error).__name__}"
        ) from error

    return Source(
        lambda: numbered(f"{path} {split}", batches_of(table)),
        lambda: f"{path} {split} {table._fingerprint}",
        table.data.nbytes,
    )


def _content(record: Record) -> str:
    """Return the text that decides the split of a row: the `repr` of its columns and values, sorted.

    Equal rows are in one split. The order of rows and of columns does not matter. An added or renamed column, or a
    number of another type (1 and 1.0), changes the split.
    """
    return str(sorted(record.items(), key=str))


def _share(content: str, split: str) -> float:
    """Return a number from 0 to 1. A row is held out for the split if the number is below `HELD_OUT`.

    It depends on the row's content and not on the seed, so that all seeds have the same test rows.
    """
    return int.from_bytes(hashlib.sha256(f"{split}{content}".encode()).digest()[:8]) / 2**64
