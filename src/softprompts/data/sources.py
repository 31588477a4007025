"""Rows of each split, from files, embedded tasks and Hub datasets: renamed, filtered, held out where none are given."""

from __future__ import annotations

import hashlib
import sys
from importlib import resources
from pathlib import Path

from softprompts.config.sections import TaskConfig
from softprompts.data.readers import read_file
from softprompts.data.values import Record, Unread, plain
from softprompts.errors import UserError, listed, nearest, short
from softprompts.system.files import IS_CLONE, PROJECT

# In a clone `data/`, in an installation what `setup.py` put beside the modules.
DATA_DIR = PROJECT / "data" if IS_CLONE else Path(str(resources.files("softprompts") / "embedded"))
EMBEDDED_PREFIX = "embedded:"
SPLITS = ("train", "validation", "test")
HELD_OUT = 0.1  # share of train held out for a split that the user does not give

Rows = list[tuple[str, Record]]  # each with the place that it came from


def read_splits(config: TaskConfig) -> dict[str, Rows]:
    """Return the rows of train, validation and test, all of them: `first_rows` keeps to `task.max_rows`.

    Raises:
        UserError: missing file, dataset, split or column; too few rows to hold some out.
    """
    for key, given in (("max_rows", config.max_rows), ("other_datasets", config.other_datasets)):
        for split in given:
            if split not in SPLITS:
                raise UserError(f'task.{key}: unknown split "{split}"{nearest(split, SPLITS)}')
    for split, count in config.max_rows.items():
        if count < 1:
            raise UserError(f"task.max_rows: {split}: expected a number above 0, found {count}")
    raw = _rename(config, {split: _read(config, split) for split in SPLITS if not is_held_out(config, split)})
    raw = {split: _where(config, rows, split) for split, rows in raw.items()}
    for split in SPLITS[1:]:
        if split not in raw:
            raw["train"], raw[split] = _hold_out(raw["train"], split)
            print(f"task: no {split} given; held out {len(raw[split])} rows of train", file=sys.stderr)
    return {split: raw[split] for split in SPLITS}


def first_rows(config: TaskConfig, raw: dict[str, Rows]) -> dict[str, Rows]:
    """Return the first `task.max_rows` rows of each split that it names, and all of the others."""
    return {split: rows[: config.max_rows.get(split)] for split, rows in raw.items()}


def is_held_out(config: TaskConfig, split: str) -> bool:
    """Say whether nothing is given for a split, so that a part of train is held out for it."""
    embedded = (config.dataset or "").startswith(EMBEDDED_PREFIX)
    return split != "train" and not getattr(config, split) and split not in config.other_datasets and not embedded


def given_as_train(config: TaskConfig, raw: dict[str, Rows]) -> Rows:
    """Return all rows that the user gave as train: those that are held out for other splits, too."""
    return [row for split in SPLITS if split == "train" or is_held_out(config, split) for row in raw[split]]


def _read(config: TaskConfig, split: str) -> Rows:
    name: str | None = getattr(config, split)
    if split in config.other_datasets:
        path, _, subset = config.other_datasets[split].partition(":")
        return _read_hub("task.other_datasets", path, subset or None, name or split, None)
    if config.dataset is None:
        if not name:
            raise UserError("task: give dataset, or a file as train")
        return read_file(name)
    if config.dataset.startswith(EMBEDDED_PREFIX):
        folder = DATA_DIR / config.dataset.removeprefix(EMBEDDED_PREFIX)
        if not (folder / "train.jsonl").is_file():
            embedded = [f"{EMBEDDED_PREFIX}{p.parent.name}" for p in DATA_DIR.glob("*/train.jsonl")]
            near = nearest(config.dataset, embedded)
            raise UserError(f"task.dataset: unknown embedded task {config.dataset}{near}")
        return read_file(folder / f"{name or split}.jsonl")
    if not name:
        raise UserError(f"task.train: name the split of {config.dataset} to train on, e.g. train")
    return _read_hub("task.dataset", config.dataset, config.subset, name, config.revision)


def _read_hub(key: str, path: str, subset: str | None, split: str, revision: str | None) -> Rows:
    if not path.strip():
        raise UserError(f"{key}: expected the id of a dataset, found an empty text")
    from softprompts.data.parquet import rows_of

    import datasets  # takes a second, and few need it

    try:
        table = datasets.load_dataset(path, subset, split=split, revision=revision)
    except Exception as error:  # the many kinds of network, naming and parsing errors of a Hub dataset
        raise UserError(
            f"{key}: cannot load {path}: {short(str(error).strip().partition(chr(10))[0]) or type(error).__name__}"
        ) from error
    return [(f"{path} {split} row {n}", row) for n, row in enumerate(rows_of(table), start=1)]


def _rename(config: TaskConfig, raw: dict[str, Rows]) -> dict[str, Rows]:
    if not config.rename:
        return raw
    columns = {column for rows in raw.values() for _, record in rows for column in record}
    for old in config.rename:
        if old not in columns:
            raise UserError(f'task.rename: no split has a column "{old}"{nearest(old, columns)}')
    return {split: [(p, _renamed(config.rename, p, record)) for p, record in rows] for split, rows in raw.items()}


def _renamed(names: dict[str, str], place: str, record: Record) -> Record:
    renamed: Record = {}
    for column, value in record.items():
        new = names.get(column, column)
        if new in renamed:
            raise UserError(f'{place}: task.rename: there would be two columns "{new}"; columns are: {listed(record)}')
        renamed[new] = value
    return renamed


def _where(config: TaskConfig, rows: Rows, split: str) -> Rows:
    for column, wanted in config.where.items():
        if rows and column not in rows[0][1]:
            raise UserError(f'task.where: no column "{column}"; columns are: {listed(rows[0][1])}')
        for place, record in rows:
            if isinstance(record.get(column), Unread):
                raise UserError(f'{place}: task.where: column "{column}" holds {record[column].kind}')
        values = [str(plain(record.get(column))) for _, record in rows]
        for value in wanted:
            if value not in values:
                raise UserError(f'task.where: no {split} row has {column} "{value}"{nearest(value, set(values))}')
        rows = [row for row, value in zip(rows, values, strict=True) if value in wanted]
    return rows


def _hold_out(rows: Rows, split: str) -> tuple[Rows, Rows]:
    """Split off every row whose content hashes low: the same rows whatever the seed, so that seeds never leak.

    The content is the `repr` of the row's columns and values, sorted. Equal rows are on one side; the order of rows and
    of columns does not count; a column added, a renamed one, or a number of another type (1 and 1.0) does.
    """

    def share(record: Record) -> float:
        digest = hashlib.sha256(f"{split}{sorted(record.items(), key=str)}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64

    held = [r for r in rows if share(r[1]) < HELD_OUT]
    kept = [r for r in rows if share(r[1]) >= HELD_OUT]
    if not held or not kept:
        raise UserError(f"task.{split}: too few rows ({len(rows)}) to hold some out of train; give a file of its own")
    return kept, held
