"""The analytics data: from commands to utterances, the home commands in reverse, with several references.

Source: the rows of `data/home_commands`. All utterances of one command in one language go to one split, so that no
command of a held-out split was seen in training in that language. Nothing is drawn: the rows there decide, and SHA-256
orders.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.build_data.text import digest, near_pairs, near_repeats, table, write_folder
from softprompts.errors import UserError

SOURCE = Path(__file__).parents[3] / "data" / "home_commands"
# Validation of the home commands as it was when analytics was measured. Since then it has values of its own.
EARLIER = Path(__file__).with_name("earlier_validation.jsonl")
SPLITS = ("train", "validation", "test")
LANGUAGES = ("en", "de", "fr", "es")
HELD_OUT = {"test": 300, "validation": 120}  # commands of English at most; a third of it of another language
MOST = 3  # utterances of a command in train, so that no command counts many times
CARD = Path(__file__).with_name("card.md")


@dataclass(frozen=True)
class Row:
    """A command and one utterance for it; `references` is the number of the command's utterances."""

    id: str
    language: str
    intent: str
    command: str
    text: str
    references: int

    def as_json(self) -> str:
        """Return the row as one JSON line, with the columns in their published order."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


Utterances = dict[tuple[str, str], list[dict[str, str]]]  # rows of the source, by language and command


def read_source(folder: Path = SOURCE, validation: Path = EARLIER) -> tuple[Utterances, dict[tuple[str, str], str]]:
    """Return each command's rows and split: test if any of its rows is there, else validation, else train."""
    files = {split: folder / f"{split}.jsonl" for split in SPLITS} | {"validation": validation}
    found: Utterances = defaultdict(list)
    splits: dict[tuple[str, str], str] = {}
    for split in SPLITS:  # a later one, which is held out more, wins
        for line in files[split].read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            key = (row["language"], row["command"])
            found[key].append(row)
            splits[key] = split
    return found, splits


def different(utterances: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return a command's utterances without near-duplicates of earlier ones, in the order of their hashes."""
    ordered = sorted(utterances, key=lambda row: digest(f"utterance/{row['id']}"))
    repeats = near_repeats([row["text"] for row in ordered])
    return [row for number, row in enumerate(ordered) if number not in repeats]


def assign(found: Utterances, splits: Mapping[tuple[str, str], str]) -> dict[str, list[tuple[str, str]]]:
    """Return the commands of each split; a held-out split has room for some, those with several utterances first.

    A command goes nowhere else: its utterances are held out in the source, too.
    """
    chosen: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    counts: Counter[tuple[str, str]] = Counter()
    for key in sorted(found, key=lambda key: (len(different(found[key])) == 1, digest("/".join(key)))):
        split, language = splits[key], key[0]
        room = HELD_OUT.get(split, len(found)) // (1 if language == "en" else 3)
        if counts[split, language] < room:
            counts[split, language] += 1
            chosen[split].append(key)
    return chosen


def mentions(command: str, references: Sequence[str]) -> list[list[str]]:
    """Return the slot values that an utterance has to mention: those that all references do, letter by letter.

    What a value is called otherwise ("light" in "lamp", 50 in "half") is not asked for.
    """
    values = dict.fromkeys(str(value) for value in json.loads(command)["slots"].values())
    return [[value] for value in values if all(says(value, text) for text in references)]


def says(value: str, text: str) -> bool:
    """Return whether a text has a value as a whole word or phrase, as the metric `mentions` looks for it."""
    before, after = (r"(?<!\w)" if value[0].isalnum() else ""), (r"(?!\w)" if value[-1].isalnum() else "")
    return re.search(before + re.escape(value) + after, text, re.IGNORECASE) is not None


def make_rows(found: Utterances, chosen: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, list[Row]]:
    """Return the rows: of train up to `MOST` utterances of a command, of a held-out split the first."""
    splits: dict[str, list[Row]] = {}
    for split in SPLITS:
        rows = []
        for language, command in chosen[split]:
            utterances = different(found[language, command])
            for row in utterances[: MOST if split == "train" else 1]:
                rows.append(Row(row["id"], language, row["intent"], command, row["text"], len(utterances)))
        splits[split] = sorted(rows, key=lambda row: digest(f"order/{row.id}"))
    return splits


def metric_data(found: Utterances, splits: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, Any]]:
    """Return, for the text of each held-out row, the other utterances of its command and the values to mention."""
    data: dict[str, dict[str, Any]] = {}
    for split in ("validation", "test"):
        for row in splits[split]:
            texts = [u["text"] for u in different(found[row.language, row.command])]
            data[row.text] = {"references": texts[1:], "mentions": mentions(row.command, texts)}
    return dict(sorted(data.items()))


def check(splits: Mapping[str, Sequence[Row]], data: Mapping[str, Any]) -> None:
    """Raise UserError if a command is in two splits of its language, or if two rows share a held-out text."""
    places: dict[tuple[str, str], str] = {}
    for split, rows in splits.items():
        for row in rows:
            if places.setdefault((row.language, row.command), split) != split:
                raise UserError(f"analytics: {row.command} lies in {places[row.language, row.command]} and {split}")
    texts = [row.text for split in ("validation", "test") for row in splits[split]]
    if len(set(texts)) < len(texts) or set(texts) != set(data):
        raise UserError("analytics: the texts of the held-out rows do not name their references")


def card(splits: Mapping[str, Sequence[Row]], data: Mapping[str, dict[str, Any]]) -> str:
    """Return the data card: the template with the numbers counted from the rows themselves."""
    counts = []
    for language in LANGUAGES:
        for split in SPLITS:
            rows = [row for row in splits[split] if row.language == language]
            held = [data[row.text] for row in rows if row.text in data] if split != "train" else []
            several = sum(bool(entry["references"]) for entry in held)
            required = sum(len(entry["mentions"]) for entry in held)
            commands, intents = len({row.command for row in rows}), len({row.intent for row in rows})
            more = [several, required] if split != "train" else ["", ""]
            counts.append([language, split, len(rows), commands, intents, *more])
    train, test = splits["train"], splits["test"]
    pairs = near_pairs([row.command for row in (*train, *test)], start=len(train))
    header = ["language", "split", "rows", "commands", "intents", "rows with several references", "values to mention"]
    return CARD.read_text(encoding="utf-8").format(
        most=MOST,
        test=HELD_OUT["test"],
        validation=HELD_OUT["validation"],
        near=len({j for i, j in pairs if i < len(train)}),
        test_rows=len(test),
        counts=table(header, counts),
    )


def build(out: Path, source: Path = SOURCE) -> str:
    """Write `out`/analytics from the home commands; return a line for the user.

    Raises UserError, before anything is written, for unsound rows.
    """
    found, places = read_source(source)
    splits = make_rows(found, assign(found, places))
    data = metric_data(found, splits)
    check(splits, data)
    texts = {split: "".join(row.as_json() for row in splits[split]) for split in SPLITS}
    more = {"references.json": json.dumps(data, ensure_ascii=False, indent=1) + "\n"}
    folder = out / "analytics"
    write_folder(folder, texts, card(splits, data), (source / "LICENSE").read_text(encoding="utf-8"), more)
    return f"{folder}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS) + " rows"
