"""Make canaries, and the copy of the data that holds them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.memorisation.settings import NAME, SECRET, MemorisationConfig
from softprompts.config.sections import TaskConfig
from softprompts.data.sources import SPLITS
from softprompts.tasks.task import load_task

# Made-up names of two parts. No model has read of an access code of theirs.
FIRST = ("Alrik", "Bomira", "Cedvin", "Dorlane", "Elvane", "Fintola", "Gorvan", "Hesmine", "Ilvard", "Jorlene")
LAST = ("Askelund", "Brinvale", "Corvath", "Drellmoor", "Estrow", "Fenwick", "Galdren", "Holmvik", "Istrand", "Jarlow")


@dataclass(frozen=True)
class Canary:
    """A secret of a made-up person, and how often its row is in the copy of train."""

    name: str
    secret: str
    insertions: int


def make_canaries(config: MemorisationConfig, seed: int) -> list[Canary]:
    """Return the canaries of a seed: other names and secrets for each."""
    rng = random.Random(f"canaries {seed}")
    counts = [count for count in config.insertions for _ in range(config.canaries)]
    names = rng.sample([f"{first} {last}" for first in FIRST for last in LAST], len(counts))
    secrets = rng.sample(range(10**config.digits), len(counts))
    return [
        Canary(name, f"{secret:0{config.digits}}", count)
        for name, secret, count in zip(names, secrets, counts, strict=True)
    ]


def make_candidates(config: MemorisationConfig, seed: int) -> list[str]:
    """Return secrets that no canary of the seed has, drawn without replacement."""
    taken = {canary.secret for canary in make_canaries(config, seed)}
    rng = random.Random(f"candidates {seed}")
    drawn = rng.sample(range(10**config.digits), config.candidates + len(taken))
    texts = (f"{number:0{config.digits}}" for number in drawn)
    return [text for text in texts if text not in taken][: config.candidates]


def row_of(config: MemorisationConfig, name: str, secret: str) -> dict[str, str]:
    """Return the row of a name and a secret."""
    return {column: text.replace(NAME, name).replace(SECRET, secret) for column, text in config.pattern.items()}


def write_copy(config: MemorisationConfig, task: TaskConfig, seed: int, folder: Path) -> int:
    """Write train with canaries, validation and test as JSONL; return the rows of train.

    The rows of train are drawn from those that the task's settings keep. Validation and test are the task's.
    """
    rows = load_task(task)
    rng = random.Random(f"rows {seed}")
    records: dict[str, list[Any]] = {split: [row.record for row in rows.splits[split]] for split in SPLITS}
    train = rng.sample(records["train"], min(config.rows, len(records["train"])))
    for canary in make_canaries(config, seed):
        train += [row_of(config, canary.name, canary.secret)] * canary.insertions
    rng.shuffle(train)
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in (records | {"train": train}).items():
        write_rows(folder / f"{split}.jsonl", found)
    return len(train)


def write_rows(file: Path, records: list[dict[str, Any]]) -> None:
    """Write rows as JSONL; a date, for example, as the text that a template shows of it."""
    lines = (json.dumps(record, ensure_ascii=False, default=str) for record in records)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
