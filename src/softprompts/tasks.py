"""A task: rows of `{prompt, target}` for each split, its choices and its metrics."""

from __future__ import annotations

import hashlib
import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softprompts.config import TaskConfig
from softprompts.errors import UserError, nearest
from softprompts.readers import Record, read_file, rows_of

import datasets

DATA_DIR = Path(__file__).resolve().parents[2] / "data"
EMBEDDED_PREFIX = "embedded:"
SPLITS = ("train", "validation", "test")
HELD_OUT = 0.1  # share of train held out for a split that the user does not give


@dataclass(frozen=True)
class Row:
    """One example: `prompt` is what the model reads, `target` what it shall write, `place` where it came from."""

    place: str
    prompt: str
    target: str
    record: Record


@dataclass(frozen=True)
class Task:
    """Rows by split, and how they are scored. `choices` holds every possible target, or is None for open ones."""

    name: str
    splits: dict[str, list[Row]]
    choices: tuple[str, ...] | None
    metrics: tuple[str, ...]
    licence: str
    config: TaskConfig

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Return, for each split, its number of rows and the SHA-256 of its prompts and targets."""
        result = {}
        for name, rows in self.splits.items():
            digest = hashlib.sha256()
            for row in rows:
                digest.update(f"{row.prompt}\0{row.target}\0".encode())
            result[name] = {"rows": len(rows), "sha256": digest.hexdigest()}
        return result


def load_task(config: TaskConfig) -> Task:
    """Read, filter and render the three splits of a task.

    Raises:
        UserError: missing file, column, dataset or split; no rows left; empty target; a label outside the choices.
    """
    check_template(config.prompt, config.target)
    raw = _read_splits(config)
    mapping, choices = _choices(config, raw["train"])
    splits = {name: _render(config, rows, mapping, choices, name) for name, rows in raw.items()}
    source = config.dataset or Path(config.train or "").stem
    return Task(
        name=config.name or source.removeprefix(EMBEDDED_PREFIX),
        splits=splits,
        choices=choices,
        metrics=tuple(config.metrics),
        licence=_licence(config),
        config=config,
    )


def with_prompt(task: Task, prompt: str, shots: Sequence[Row] = (), separator: str = "") -> Task:
    """Return the same task with another prompt template, and solved examples (`shots`) in front of every row."""
    check_template(prompt, task.config.target)
    solved = "".join(render(prompt, s.record, s.place) + s.target + separator for s in shots)
    splits = {
        name: [replace(row, prompt=solved + render(prompt, row.record, row.place)) for row in rows]
        for name, rows in task.splits.items()
    }
    return replace(task, splits=splits, config=replace(task.config, prompt=prompt))


def check_template(prompt: str, target: str) -> None:
    """Raise `UserError` where a space would be lost or doubled between prompt and target."""
    for key, template in (("task.prompt", prompt), ("task.target", target)):
        try:
            list(string.Formatter().parse(template))
        except ValueError as error:
            raise UserError(f"{key}: {error}; write {{{{ and }}}} for literal braces") from None
    if prompt.endswith(" "):
        # "Sentiment: " + "positive" tokenizes unlike any text that the model was trained on.
        raise UserError('task.prompt: ends in a space; let task.target begin with it (target: " {label}")')


def render(template: str, record: Record, place: str) -> str:
    """Fill `{column}` fields from one record.

    Raises:
        UserError: a column that the record lacks, or whose value is null; the message lists the columns there are.
    """
    try:
        return template.format_map({k: v for k, v in record.items() if v is not None})
    except KeyError as error:
        column = str(error.args[0])
        if column in record:
            raise UserError(f'{place}: column "{column}" is null') from None
        raise UserError(f'{place}: no column "{column}"; columns are: {", ".join(record)}') from None
    except (IndexError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{place}: cannot fill the template {template!r}: {error}") from None


def _read_splits(config: TaskConfig) -> dict[str, list[tuple[str, Record]]]:
    names = {split: getattr(config, split) for split in SPLITS}
    for key, count in config.max_rows.items():
        if key not in SPLITS:
            raise UserError(f'task.max_rows: unknown split "{key}"{nearest(key, SPLITS)}')
        if count < 1:
            raise UserError(f"task.max_rows: {key}: expected a number above 0, found {count}")
    raw: dict[str, list[tuple[str, Record]]] = {}
    if config.dataset is None:
        if config.train is None:
            raise UserError("task: give dataset, or a file as train")
        raw = {split: read_file(path) for split, path in names.items() if path}
    elif config.dataset.startswith(EMBEDDED_PREFIX):
        folder = DATA_DIR / config.dataset.removeprefix(EMBEDDED_PREFIX)
        if not (folder / "train.jsonl").is_file():
            embedded = [f"{EMBEDDED_PREFIX}{p.parent.name}" for p in DATA_DIR.glob("*/train.jsonl")]
            raise UserError(f"task.dataset: unknown embedded task {config.dataset}{nearest(config.dataset, embedded)}")
        raw = {split: read_file(folder / f"{name or split}.jsonl") for split, name in names.items()}
    else:
        raw = {split: _read_hub(config, name) for split, name in names.items() if name}
        if "train" not in raw:
            raise UserError(f"task.train: name the split of {config.dataset} to train on, e.g. train")
    raw = {split: _where(config, rows, split) for split, rows in raw.items()}
    for split in SPLITS[1:]:
        if split not in raw:
            raw["train"], raw[split] = _hold_out(raw["train"], split)
            print(f"task: no {split} given; held out {len(raw[split])} rows of train", file=sys.stderr)
    return {split: raw[split][: config.max_rows.get(split)] for split in SPLITS}


def _read_hub(config: TaskConfig, split: str) -> list[tuple[str, Record]]:
    try:
        table = datasets.load_dataset(config.dataset, config.subset, split=split, revision=config.revision)
    except Exception as error:  # the many kinds of network, naming and parsing errors of a Hub dataset
        raise UserError(f"task.dataset: cannot load {config.dataset}: {str(error).splitlines()[0]}") from error
    return [(f"{config.dataset} {split} row {n}", row) for n, row in enumerate(rows_of(table), start=1)]


def _where(config: TaskConfig, rows: list[tuple[str, Record]], split: str) -> list[tuple[str, Record]]:
    for column, wanted in config.where.items():
        if rows and column not in rows[0][1]:
            raise UserError(f'task.where: no column "{column}"; columns are: {", ".join(rows[0][1])}')
        seen = {str(record.get(column)) for _, record in rows}
        for value in wanted:
            if value not in seen:
                raise UserError(f'task.where: no {split} row has {column} "{value}"{nearest(value, seen)}')
        rows = [(place, record) for place, record in rows if str(record.get(column)) in wanted]
    return rows


def _hold_out(rows: list[tuple[str, Record]], split: str) -> tuple[list[Any], list[Any]]:
    """Split off every row whose content hashes low: the same rows whatever the seed, so that seeds never leak."""

    def share(record: Record) -> float:
        digest = hashlib.sha256(f"{split}{sorted(record.items(), key=str)}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64

    held = [r for r in rows if share(r[1]) < HELD_OUT]
    kept = [r for r in rows if share(r[1]) >= HELD_OUT]
    if not held or not kept:
        raise UserError(f"task.{split}: too few rows ({len(rows)}) to hold some out of train; give a file of its own")
    return kept, held


def _choices(
    config: TaskConfig, train: Sequence[tuple[str, Record]]
) -> tuple[dict[str, str] | None, tuple[str, ...] | None]:
    if config.choices is None:
        return None, None
    if isinstance(config.choices, dict):
        mapping = {str(k): v for k, v in config.choices.items()}
        return mapping, tuple(mapping.values())
    if config.choices == "from_train":
        return None, tuple(sorted({render(config.target, record, place) for place, record in train}))
    return None, tuple(config.choices)


def _render(
    config: TaskConfig,
    rows: list[tuple[str, Record]],
    mapping: dict[str, str] | None,
    choices: tuple[str, ...] | None,
    split: str,
) -> list[Row]:
    result = []
    for place, record in rows:
        target = render(config.target, record, place)
        if mapping is not None and target in mapping:
            target = mapping[target]
        elif mapping is not None:
            raise UserError(f'{place}: label "{target}" is outside task.choices{nearest(target, mapping)}')
        elif choices is not None and target not in choices:
            raise UserError(f'{place}: label "{target}" is outside task.choices{nearest(target, choices)}')
        if not target.strip():
            raise UserError(f"{place}: the target is empty")
        result.append(Row(place, render(config.prompt, record, place), target, record))
    if not result:
        raise UserError(f"task.{split}: no rows")
    return result


def _licence(config: TaskConfig) -> str:
    if not (config.dataset or "").startswith(EMBEDDED_PREFIX):
        return "that of your data"
    folder = DATA_DIR / (config.dataset or "").removeprefix(EMBEDDED_PREFIX)
    return (folder / "LICENSE").read_text(encoding="utf-8").strip().splitlines()[0]
