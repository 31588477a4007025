"""Load a task: rows of `{prompt, target}` for each split, its choices and its metrics."""

from __future__ import annotations

import random
import string
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from softprompts.config.sections import TaskConfig
from softprompts.data import tables
from softprompts.data.sources import DATA_DIR, EMBEDDED_PREFIX, SPLITS, open_sources
from softprompts.data.without import read_without
from softprompts.errors import UserError, listed, notice, warn
from softprompts.metrics.names import check_names
from softprompts.metrics.scoring import check_entries, check_metrics, check_reach
from softprompts.tasks.privacy import check_packages, finder_version
from softprompts.tasks.rows import SCHEMA, StoredRows, digest_of, key_of_rows, rewritten, texts_of
from softprompts.tasks.schemas import names_in, read_metric_data, read_schema
from softprompts.tasks.splits import write_splits
from softprompts.tasks.templates import Row, check_characters, check_task_templates, render

# Settings that do not change the rows, only their later use.
LABEL_WORDS = 2  # most words for each column in a template that only labels its columns
OF_TOKENS = ("chat", "system", "max_length", "long_rows", "metrics", "metric_data", "name")


@dataclass(frozen=True)
class Task:
    """Rows by split, with choices and metrics. `choices` are all possible targets, or None for open targets.

    `separator` ends each few-shot example in the prompts, if there are any. `masked` has the number of masked values of
    each kind of personal data, for each split; it is empty if `task.pii` is not `mask`. `without` has the fingerprints
    of the rows that were left out of each split; it is empty if `task.without` is not set. `metric_data` is the content
    of that setting's file. `majority` is the most frequent target of the whole train split, if `splits` has only a part
    of that.
    """

    name: str
    splits: dict[str, Sequence[Row]]
    choices: tuple[str, ...] | None
    metrics: tuple[str, ...]
    licence: str
    config: TaskConfig
    schema: dict[str, Any] | None = None
    metric_data: dict[str, Any] | None = None
    separator: str = ""
    masked: dict[str, dict[str, int]] = field(default_factory=dict)
    without: dict[str, list[str]] = field(default_factory=dict)
    majority: str | None = None

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Return, for each split, its number of rows, the SHA-256 of its prompts and targets, and its masked values.

        With `task.without`, also the number and the fingerprints of the rows that were left out.
        """
        found: dict[str, dict[str, Any]] = {
            name: {"rows": len(rows), "sha256": digest_of(rows)} for name, rows in self.splits.items()
        }
        for name, masked in self.masked.items():
            found[name]["masked"] = masked
        for name, fingerprints in self.without.items():
            found[name]["without"] = {"rows": len(fingerprints), "fingerprints": fingerprints}
        return found


def load_task(config: TaskConfig) -> Task:
    """Read, filter and render the three splits of a task; warn of data that makes the scores meaningless.

    Large data is read once. Later runs use a cache, as long as files and settings are the same.

    Raises:
        UserError: settings exclude each other; a file, column, dataset or split is missing; no rows are left; a target
            is empty or violates the schema; a label is not a choice; choices are free text; a metric does not fit the
            task, or no target reaches its best score; no target has an entry in `task.metric_data`; personal data are
            refused.
    """
    return _load(config)


def load_unmasked(config: TaskConfig) -> Task:
    """Read a task as `load_task` does, but with `task.pii: keep`, for checks of the rows as they are.

    If the task masks or refuses personal data, no copy of its rows stays in the cache.

    Raises:
        UserError: as `load_task`.
    """
    if config.pii == "keep":
        return _load(config)
    return _load(replace(config, pii="keep"), keep=False, masked=config.pii == "mask")


def _load(config: TaskConfig, keep: bool = True, masked: bool = False) -> Task:
    """Read a task.

    Args:
        config: its settings.
        keep: whether large data stay in the cache.
        masked: whether runs mask the rows. The names in `task.metric_data` are then masked targets, and not checked.
    """
    check_task_templates(config.prompt, config.target)
    check_names(config.metrics)
    if config.system is not None and not config.chat:
        raise UserError("task.system: a system message requires task.chat: true")
    if config.schema and config.choices is not None:
        raise UserError("task.schema: applies only to tasks without choices; remove it, or task.choices")
    check_characters("task.system", config.system or "")
    schema = read_schema(config.schema) if config.schema else None
    metric_data = read_metric_data(config.metric_data) if config.metric_data else None
    without = read_without(config.without) if config.without is not None else frozenset()
    sources = open_sources(config)
    key = None
    if sum(source.size for source in sources.values()) >= tables.LARGE:
        settings = {name: value for name, value in asdict(config).items() if name not in OF_TOKENS}
        if config.pii != "keep":
            check_packages("task.pii")
            settings["pii_found_by"] = finder_version()
        settings["without"] = sorted(without)  # the content of the file, not its name
        key = tables.key_of("rows", settings, schema, {name: s.content() for name, s in sources.items()})
    made = tables.make_tables(
        key,
        dict.fromkeys(SPLITS, SCHEMA),
        lambda writers: write_splits(config, schema, sources, writers, without),
        keep,
    )
    splits: dict[str, Sequence[Row]] = {name: StoredRows(made, name) for name in SPLITS}
    for text in [*made.notes["held_out"], *_masked_in_words(made.notes["masked"])]:
        notice(text)
    if without:
        _tell_of_rows_left_out(without, made.notes["without"])
    # Last, because the metrics' library takes seconds to import; a missing file is thus reported at once.
    check_metrics(config.metrics, config.choices is not None, metric_data)
    for text in [*_reach(config, schema, metric_data, splits, not masked), *made.notes["warnings"]]:
        warn(text)
    choices = made.notes["choices"]
    source = config.dataset or config.other_datasets.get("train") or Path(config.train or "").stem
    return Task(
        name=config.name or source.removeprefix(EMBEDDED_PREFIX),
        splits=splits,
        choices=None if choices is None else tuple(choices),
        metrics=tuple(config.metrics),
        licence=licence_of(config),
        config=config,
        schema=schema,
        masked=made.notes["masked"],
        without=made.notes["without"],
        metric_data=metric_data,
    )


def _masked_in_words(masked: dict[str, dict[str, int]]) -> list[str]:
    """Return a line per split with the kinds of masked values, without the values."""
    return [
        f"task.pii: masked in {split}: {listed(f'{count:,} {kind}' for kind, count in kinds.items()) or 'nothing'}"
        for split, kinds in masked.items()
    ]


def _tell_of_rows_left_out(without: Collection[str], found: dict[str, list[str]]) -> None:
    """Log how many rows of each split were left out, and warn of fingerprints that no row has."""
    notice(f"task.without: left out {listed(f'{len(own):,} of {split}' for split, own in found.items())}")
    if missing := len(without) - len({one for own in found.values() for one in own}):
        warn(
            f"task.without: no row has {missing:,} of its {len(without):,} fingerprints: the rows are no longer there, "
            "or beyond task.max_rows, or task.prompt and task.target name other columns than the fingerprinted ones"
        )


def _reach(
    config: TaskConfig,
    schema: dict[str, Any] | None,
    metric_data: dict[str, Any] | None,
    splits: dict[str, Sequence[Row]],
    entries: bool,
) -> list[str]:
    """Return the warnings of `check_reach` and, if `entries`, of `check_entries`, which take seconds for many rows."""
    train, *scored = (splits[name] for name in SPLITS)
    keys = [key_of_rows(rows) for rows in splits.values()]
    ours = not any(Path(name).exists() for name in config.metrics)  # the key does not cover users' modules
    whole = not (config.max_rows or config.where or config.without)
    key = (
        tables.key_of("reach", keys, config.metrics, schema, metric_data, whole, entries)
        if ours and all(keys)
        else None
    )

    def check(_: dict[str, tables.Writer]) -> list[str]:
        pairs = [(r.place, r.target) for rows in scored for r in texts_of(rows)]
        said = check_reach(config.metrics, schema, pairs, metric_data)
        if entries and metric_data is not None:
            others = (row.target for row in texts_of(train))
            said += check_entries(config.metrics, metric_data, pairs, others, whole)
        return said

    said: list[str] = tables.make_tables(key, {}, check).notes
    return said


def draw_rows(task: Task, count: int, seed: int, key: str) -> list[Row]:
    """Draw rows of train without replacement.

    Raises:
        UserError: the count is below 0, or above that of train; `key` is the setting with the count.
    """
    train = task.splits["train"]
    if not 0 <= count <= len(train):
        raise UserError(f"{key}: {count} is not between 0 and the {len(train)} rows of train")
    return random.Random(seed).sample(train, count)


def in_words(task: Task) -> str:
    """Return a task as a text for initial values.

    With choices, it is the words of the template and the choices: "{text}\\nSentiment:" becomes "Sentiment: positive or
    negative". A template without words uses the column's name, as in "text: billing or shipping".

    With open answers, it is the words of the template if they are an instruction. Otherwise it is one with the names of
    columns: "{text}\\nSummary:" becomes "Write the summary for the following text."
    """
    pieces = list(string.Formatter().parse(task.config.prompt))
    words = " ".join("".join(literal for literal, *_ in pieces).split())
    given = list(dict.fromkeys(name for _, name, *_ in pieces if name))
    if task.choices:
        if not words.strip(string.punctuation + " "):
            words = ", ".join(given) + ":"
        return f"{words} {' or '.join(choice.strip() for choice in task.choices)}"
    if len(words.split()) > LABEL_WORDS * max(1, len(given)):
        return words
    asked = [name for _, name, *_ in string.Formatter().parse(task.config.target) if name]
    return f"Write the {' and '.join(asked) or 'answer'} for the following {' and '.join(given)}."


def outputs_in_words(task: Task) -> str | None:
    """Return the possible outputs of a task as a text: its choices, such as "positive, negative", or its schema's
    names.

    Only spaces separate the names: commas would add a third more tokens for home_commands. None if the task has neither
    choices nor a schema.
    """
    if task.choices:
        return ", ".join(choice.strip() for choice in task.choices)
    return " ".join(names_in(task.schema)) or None if task.schema else None


def with_prompt(task: Task, prompt: str, shots: Sequence[Row] = (), separator: str = "") -> Task:
    """Return the same task with another prompt template, and few-shot examples (`shots`) before every row."""
    check_task_templates(prompt, task.config.target)
    solved = "".join(render(prompt, s.record, s.place) + s.target + separator for s in shots)

    def write(writers: dict[str, tables.Writer]) -> dict[str, Any]:
        return {name: rewritten(rows, writers[name], prompt, solved) for name, rows in task.splits.items()}

    keys = [key_of_rows(rows) for rows in task.splits.values()]
    key = tables.key_of("rows", keys, prompt, solved) if all(keys) else None
    made = tables.make_tables(key, dict.fromkeys(task.splits, SCHEMA), write)
    splits: dict[str, Sequence[Row]] = {name: StoredRows(made, name) for name in task.splits}
    config = replace(task.config, prompt=prompt)
    return replace(task, splits=splits, config=config, separator=separator if shots else "")


def licence_of(config: TaskConfig) -> str:
    """Return the licence of a task's rows: the name of an included task's, else that it is the user's."""
    if not (config.dataset or "").startswith(EMBEDDED_PREFIX):
        return "that of your data"
    file = DATA_DIR / (config.dataset or "").removeprefix(EMBEDDED_PREFIX) / "LICENSE"
    return file.read_text(encoding="utf-8").strip().splitlines()[0] if file.is_file() else "unknown"
