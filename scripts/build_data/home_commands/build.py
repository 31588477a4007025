"""Build the home commands: utterances in four languages, each with its intent and slots as JSON.

Source: the sentence templates of `home-assistant-intents` (Apache-2.0), expanded with households of our own and read
back by hassil's recogniser, which alone decides the slots. Every choice comes from the SHA-256 of a key, so that every
build gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scripts.build_data.home_commands.rows import (
    ABSURD,
    FEWEST,
    HELD_OUT,
    LEFT_OUT,
    MOST,
    SPLITS,
    Language,
    Row,
    keys,
    write_language,
)
from scripts.build_data.home_commands.schema import schema
from scripts.build_data.home_commands.sentences import MOST_WORDS
from scripts.build_data.text import check_versions, digest, near_pairs, table, write_folder
from softprompts.errors import UserError

from home_assistant_intents import get_intent_info
from jsonschema import Draft202012Validator

PINNED = {"home-assistant-intents": "2026.10.27", "hassil": "3.12.1"}
SIZES = {
    "en": {"train": 4200, "validation": 300, "test": 600},
    "de": {"train": 1010, "validation": 100, "test": 200},
    "fr": {"train": 1010, "validation": 100, "test": 200},
    "es": {"train": 1010, "validation": 100, "test": 200},
}
CARD = Path(__file__).with_name("card.md")
REASONS = ("ambiguous", "read otherwise", "several values", "two splits", "duplicates", "unlearnable")

Stats = dict[str, Counter[str]]


def write_all(sizes: Mapping[str, Mapping[str, int]], stats: Stats) -> dict[str, list[Row]]:
    """Return the rows of each split, all languages shuffled together; no two have the same words."""
    # Languages are independent. Each gets a new process, because a fork of a process with threads can hang.
    with ProcessPoolExecutor(min(len(sizes), os.cpu_count() or 1), get_context("spawn")) as pool:
        found = list(pool.map(write_language, sizes, sizes.values()))
    seen: set[str] = set()
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for split in reversed(SPLITS):  # utterances that two languages share stay in the held-out split
        for language, (rows, dropped) in zip(sizes, found, strict=True):
            stats[language] += dropped if split == SPLITS[0] else Counter()
            new = [row for row in rows[split] if seen.isdisjoint(keys(row.text))]
            stats[language]["duplicates"] += len(rows[split]) - len(new)
            seen.update(*(keys(row.text) for row in new))
            splits[split] += new
    return {split: sorted(rows, key=lambda row: digest(f"order/{row.id}")) for split, rows in splits.items()}


def check(splits: Mapping[str, Sequence[Row]], rules: Mapping[str, Any]) -> None:
    """Raise UserError if a command does not fit the schema, or a template is in two splits of a language."""
    Draft202012Validator.check_schema(rules)
    validator = Draft202012Validator(rules)
    checked: set[str] = set()
    places: dict[tuple[str, str], str] = {}
    for split, rows in splits.items():
        for row in rows:
            if places.setdefault((row.language, row.template), split) != split:
                raise UserError(f"{row.id}: its template {row.template} is in two splits")
            if row.command not in checked and (error := next(validator.iter_errors(json.loads(row.command)), None)):
                raise UserError(f"{row.id}: {row.command} does not fit the schema: {error.message}")
            checked.add(row.command)


def card(splits: Mapping[str, Sequence[Row]], stats: Stats) -> str:
    """Return the data card: the template with the numbers counted from the rows themselves."""
    counts, languages = [], list(stats)
    for language in languages:
        for split in SPLITS:
            mine = [row for row in splits[split] if row.language == language]
            longest = max((len(row.text.split()) for row in mine), default=0)
            different = [len({getattr(row, name) for row in mine}) for name in ("intent", "template", "command")]
            counts.append([language, split, len(mine), *different, longest])
    cell = Counter((row.intent, row.language, split) for split, rows in splits.items() for row in rows)
    intents = [
        [name, *("/".join(str(cell[name, language, split]) for split in SPLITS) for language in languages)]
        for name in sorted({intent for intent, _, _ in cell})
    ]
    train, test = splits["train"], splits["test"]
    pairs = near_pairs([row.text for row in (*train, *test)], start=len(train))
    near = {j for i, j in pairs if i < len(train)}
    dropped = [
        [language, stats[language]["templates"], *(stats[language][r] for r in REASONS)] for language in languages
    ]
    return CARD.read_text(encoding="utf-8").format(
        intents=PINNED["home-assistant-intents"],
        hassil=PINNED["hassil"],
        example=min(
            (row for row in train if row.language == "en" and row.intent == "HassLightSet"),
            key=lambda r: (len(r.command), r.id),
        ).command,
        left_out=", ".join(f"`{name}`" for name in sorted(LEFT_OUT)),
        absurd="`, `".join(sorted(ABSURD)),
        **HELD_OUT,
        fewest=FEWEST,
        most=MOST,
        most_words=MOST_WORDS,
        near=len(near),
        test_rows=len(test),
        dropped=table(["language", "templates", *REASONS], dropped),
        counts=table(["language", "split", "rows", "intents", "templates", "different commands", "most words"], counts),
        intents_table=table(["rows of train/validation/test", *languages], intents),
    )


def licence() -> str:
    """Return the text of the source's licence; UserError if the package lacks it."""
    for path in metadata.files("home-assistant-intents") or []:
        if path.name == "LICENSE.md":
            return path.read_text(encoding="utf-8").replace("\r\n", "\n")
    raise UserError("home-assistant-intents has no LICENSE.md; install it again with pip")


def build(out: Path, sizes: Mapping[str, Mapping[str, int]] = SIZES) -> str:
    """Write `out`/home_commands from the installed packages; return a line for the user.

    Raises UserError before writing, for other versions than the pinned ones and for unsound rows.
    """
    check_versions("home_commands", PINNED)
    stats: Stats = {language: Counter() for language in sizes}
    splits = write_all(sizes, stats)
    info = get_intent_info()
    assert info is not None
    names = sorted({row.intent for rows in splits.values() for row in rows})
    rules = schema({language: Language(language).intents for language in sizes}, info, names)
    check(splits, rules)
    texts = {split: "".join(row.as_json() for row in splits[split]) for split in SPLITS}
    more = {"schema.json": json.dumps(rules, ensure_ascii=False, indent=1) + "\n"}
    folder = out / "home_commands"
    write_folder(folder, texts, card(splits, stats), licence(), more)
    return f"{folder}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS) + " rows"
