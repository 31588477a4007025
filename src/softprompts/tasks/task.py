"""A task: rows of `{prompt, target}` for each split, its choices and its metrics."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softprompts.config.sections import TaskConfig
from softprompts.data.sources import DATA_DIR, EMBEDDED_PREFIX, Rows, first_rows, given_as_train, read_splits
from softprompts.errors import UserError, nearest, short
from softprompts.metrics.scoring import check_metrics, check_reach
from softprompts.tasks.checks import check_distinct, check_labels, warn_of_first_rows, warn_of_look_alikes, warn_of_rows
from softprompts.tasks.schemas import check_targets, read_schema
from softprompts.tasks.templates import Row, check_characters, check_template, render


@dataclass(frozen=True)
class Task:
    """Rows by split, and how they are scored. `choices` holds every possible target, or is None for open ones.

    `separator` ends each solved example in front of the rows, if there are any.
    """

    name: str
    splits: dict[str, list[Row]]
    choices: tuple[str, ...] | None
    metrics: tuple[str, ...]
    licence: str
    config: TaskConfig
    schema: dict[str, Any] | None = None
    separator: str = ""

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
    """Read, filter and render the three splits of a task; warn of what makes their numbers meaningless.

    Raises:
        UserError: settings that exclude each other; missing file, column, dataset or split; no rows left; empty target;
            a label outside the choices, or free text as choices; a target that breaks the schema; metrics that do not
            fit, or that no target reaches.
    """
    check_template(config.prompt, config.target)
    if config.system is not None and not config.chat:
        raise UserError("task.system: a system message needs task.chat: true")
    if config.schema and config.choices is not None:
        raise UserError("task.schema: is for written answers; take it out, or task.choices")
    schema = read_schema(config.schema) if config.schema else None
    whole = read_splits(config)
    mapping, choices = _choices(config, given_as_train(config, whole))
    for text in [*(choices or ()), config.system or ""]:
        check_characters("task.choices" if choices and text in choices else "task.system", text)
    raw = first_rows(config, whole)
    splits = {name: _render(config, rows, mapping, choices, name) for name, rows in raw.items()}
    if schema is not None:
        check_targets(schema, splits)
    # Last: the library of the metrics takes seconds to import, which a missing file or column should not.
    check_metrics(config.metrics, config.choices is not None)
    scored = [(row.place, row.target) for name in ("validation", "test") for row in splits[name]]
    check_reach(config.metrics, schema, scored)
    warn_of_rows(splits, choices, config.prompt)
    for name in config.max_rows if choices else ():
        taken, given = (_labels(config, rows) for rows in (raw[name], whole[name]))
        warn_of_first_rows("task.max_rows", name, taken, given)
    source = config.dataset or config.other_datasets.get("train") or Path(config.train or "").stem
    return Task(
        name=config.name or source.removeprefix(EMBEDDED_PREFIX),
        splits=splits,
        choices=choices,
        metrics=tuple(config.metrics),
        licence=_licence(config),
        config=config,
        schema=schema,
    )


def in_words(task: Task) -> str:
    """Return a task as a text for a soft prompt to start from: the words of its template, and its choices.

    "{text}\\nSentiment:" with choices becomes "Sentiment: positive or negative"; without any words of its own,
    "text: queue".
    """
    pieces = list(string.Formatter().parse(task.config.prompt))
    words = " ".join("".join(literal for literal, *_ in pieces).split())
    if not words.strip(string.punctuation + " "):
        words = ", ".join(dict.fromkeys(name for _, name, *_ in pieces if name)) + ":"
    asked = [name for _, name, *_ in string.Formatter().parse(task.config.target) if name]
    return f"{words} {' or '.join(choice.strip() for choice in task.choices or asked)}"


def with_prompt(task: Task, prompt: str, shots: Sequence[Row] = (), separator: str = "") -> Task:
    """Return the same task with another prompt template, and solved examples (`shots`) in front of every row."""
    check_template(prompt, task.config.target)
    solved = "".join(render(prompt, s.record, s.place) + s.target + separator for s in shots)
    splits = {
        name: [replace(row, prompt=solved + render(prompt, row.record, row.place)) for row in rows]
        for name, rows in task.splits.items()
    }
    config = replace(task.config, prompt=prompt)
    return replace(task, splits=splits, config=config, separator=separator if shots else "")


def _choices(config: TaskConfig, train: Rows) -> tuple[dict[str, str] | None, tuple[str, ...] | None]:
    if config.choices is None:
        return None, None
    if isinstance(config.choices, dict):
        mapping: dict[str, str] = {}
        for label, word in config.choices.items():
            if str(label) in mapping:
                raise UserError(
                    f'task.choices: "{short(label)}" stands twice, once as a text and once as what YAML reads as none: '
                    "keep one of them, quoted"
                )
            mapping[str(label)] = word
        words = tuple(dict.fromkeys(mapping.values()))  # two labels may share a word
        check_distinct(words)
        return mapping, words
    if config.choices == "from_train":
        labels = [render(config.target, record, place) for place, record in train]
        check_labels(labels)
        check_distinct(sorted(set(labels)))
        warn_of_look_alikes(sorted(set(labels)))
        return None, tuple(sorted(set(labels)))
    check_distinct(config.choices)
    return None, tuple(config.choices)


def _labels(config: TaskConfig, rows: Rows) -> list[str]:
    """Return the labels of rows as the data has them; rows that nothing else reads may lack one."""
    labels = []
    for place, record in rows:
        with suppress(UserError):
            labels.append(render(config.target, record, place))
    return labels


def _render(
    config: TaskConfig,
    rows: Rows,
    mapping: dict[str, str] | None,
    choices: tuple[str, ...] | None,
    split: str,
) -> list[Row]:
    result = []
    for place, record in rows:
        target = render(config.target, record, place)
        valid = choices if mapping is None else mapping
        if valid is not None and target not in valid:
            near = nearest(target, valid)
            raise UserError(f'{place}: label "{short(target)}" is outside task.choices{near}{_advice(config)}')
        if mapping is not None:
            target = mapping[target]
        if not target.strip():
            raise UserError(f"{place}: the target is empty")
        result.append(Row(place, render(config.prompt, record, place), target, record))
    if not result:
        raise UserError(f"task.{split}: no rows")
    return result


def _advice(config: TaskConfig) -> str:
    """Return what to do about labels that YAML has read as something else: yes and no as truth values, 007 as 7."""
    changed = isinstance(config.choices, dict) and not all(isinstance(key, str) for key in config.choices)
    return "; YAML reads some keys of task.choices as no text, such as yes as true: quote them" if changed else ""


def _licence(config: TaskConfig) -> str:
    if not (config.dataset or "").startswith(EMBEDDED_PREFIX):
        return "that of your data"
    folder = DATA_DIR / (config.dataset or "").removeprefix(EMBEDDED_PREFIX)
    return (folder / "LICENSE").read_text(encoding="utf-8").strip().splitlines()[0]
