"""The compliance data: licence notices and terms, their policy category, and the passage that decides it.

Source: the ScanCode licence database as `licensedcode-data` packs it (CC-BY-4.0), read from the installed package's
files. Every order comes from SHA-256 of a key, so that a build gives the same bytes every time.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import Any

from scripts.build_data.text import (
    CHAR_THRESHOLD,
    SHINGLE,
    WORD_THRESHOLD,
    check_versions,
    digest,
    linked,
    near_pairs,
    near_repeats,
    normalise,
    table,
    write_folder,
)
from softprompts.errors import UserError

import yaml

PINNED = {"licensedcode-data": "32.1.0"}
# ScanCode's categories, and the policy category of the metric `policy_cost`. Others are left out.
CATEGORIES = {
    "Public Domain": "public domain",
    "Permissive": "permissive",
    "Copyleft Limited": "limited copyleft",
    "Copyleft": "copyleft",
    "Proprietary Free": "proprietary",
    "Commercial": "proprietary",
    "Free Restricted": "proprietary",
    "Source-available": "proprietary",
}
SPLITS = ("train", "validation", "test")
HELD_OUT = {"test": 0.25, "validation": 0.1}  # share of a category's rows at most; the rest is train
LARGEST = 12  # rows of a family that may be held out, so that no family counts many times
PER_LICENCE = 40  # texts of one licence that are looked at, at most
SHORTEST, LONGEST = 60, 700  # characters of a text
RELEVANCE = 90  # of an entry, of 100: how sure the database is that it means its licence
PHRASE = 6  # characters of a passage at least
PUNCTUATION = " .,:;()[]<>\"'`_-"  # around a passage
ATTRIBUTION = """Copyright (c) nexB Inc. and others. All rights reserved.
ScanCode is a trademark of nexB Inc.
SPDX-License-Identifier: CC-BY-4.0
See https://creativecommons.org/licenses/by/4.0/legalcode for the license text.
See https://github.com/nexB/scancode-toolkit for support or download.
See https://aboutcode.org for more information about nexB OSS projects.
Changed for this project: texts were cut, cleaned of comment signs and chosen, and categories joined; see README.md."""
CARD = Path(__file__).with_name("card.md")

Stats = Counter[str]
Entry = tuple[dict[str, Any], str]  # the fields of a file of the database, and its text


@dataclass(frozen=True)
class Row:
    """A notice or the terms of one licence. `passage` names or decides it; it is empty if `marked` is no."""

    id: str
    licence: str
    kind: str
    text: str
    marked: str
    passage: str
    category: str

    def as_json(self) -> str:
        """Return the row as one JSON line, with the columns in their published order."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def read_entry(text: str) -> Entry:
    """Return the fields and the text of a file of the database: YAML between two lines of dashes, then the text."""
    _, head, body = re.split(r"(?m)^---[ ]*$", text, maxsplit=2)
    return yaml.load(head, yaml.CSafeLoader) or {}, body


def licences(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Return the policy category of each licence that is in use, in English, and in one of `CATEGORIES`."""
    found = {}
    for fields, _ in entries.values():
        if "key" in fields and not fields.get("is_deprecated") and fields.get("language", "en") == "en":
            category = CATEGORIES.get(fields["category"])
            if category and not any(fields.get(f"is_{kind}") for kind in ("exception", "generic", "unknown")):
                found[fields["key"]] = category
    return found


def clean(text: str) -> str:
    """Return a text in one line, without comment signs and the braces around required parts of a match."""
    lines = [re.sub(r"^[\s#*;%/|!<>-]+|[\s#*/|>-]+$", "", line) for line in text.splitlines()]
    return " ".join(" ".join(lines).replace("{{", "").replace("}}", "").split())


def shorten(text: str) -> str:
    """Return as many of the first sentences as fit into `LONGEST` characters; "" if the first does not."""
    if len(text) <= LONGEST:
        return text
    return text[: max((found.end() for found in re.finditer(r"[.;:](?= )", text[:LONGEST])), default=0)]


def phrases(entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Return the phrases of each licence that mean it by themselves, longest first: names and short references."""
    found: dict[str, set[str]] = defaultdict(set)
    for fields, body in entries.values():
        _, licence = _kind_and_licence(fields)
        text = clean(body).strip(PUNCTUATION)
        certain = int(fields.get("relevance", 100)) == 100 and not fields.get("is_false_positive")
        if "key" not in fields and licence and certain and PHRASE <= len(text) < SHORTEST and "/" not in text:
            found[licence].add(text)
    return {licence: sorted(texts, key=lambda text: (-len(text), text)) for licence, texts in found.items()}


def passage_of(text: str, known: Sequence[str]) -> str:
    """Return the longest known phrase that a text contains as whole words, with the text's spelling; "" for none."""
    for phrase in known:
        if phrase.casefold() in text.casefold():
            found = re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE)
            if found:
                return found[0]
    return ""


def read_rows(entries: Mapping[str, Entry], stats: Stats) -> list[Row]:
    """Return the notices and terms of one licence each, cut to their first sentences; count what is left out."""
    categories, known = licences(entries), phrases(entries)
    rows = []
    for name, (fields, body) in sorted(entries.items(), key=lambda entry: digest(f"keep/{entry[0]}")):
        kind, licence = _kind_and_licence(fields)
        stats["texts"] += 1
        text = shorten(clean(body))
        reason = _left_out(fields, kind, licence, text, categories)
        if reason:
            stats[reason] += 1
            continue
        passage = passage_of(text, known.get(licence, ()))
        marked = "yes" if passage else "no"
        rows.append(Row(f"{kind}-{Path(name).stem}", licence, kind, text, marked, passage, categories[licence]))
    return rows


def _kind_and_licence(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return "terms" or "notice", or "" for neither, and the key of the licence, "" if there are several."""
    if "key" in fields:
        return "terms", fields["key"]
    expression = str(fields.get("license_expression", ""))
    licence = expression if re.fullmatch(r"[\w.+-]+", expression) else ""
    kind = "notice" if fields.get("is_license_notice") else "terms" if fields.get("is_license_text") else ""
    return kind, licence


def _left_out(
    fields: Mapping[str, Any], kind: str, licence: str, text: str, categories: Mapping[str, str]
) -> str | None:
    """Return why a text is left out, the first reason that holds; None if it is not."""
    reasons = {
        "neither notice nor terms": not kind,
        "several licences": not licence,
        "other category": licence not in categories,
        "deprecated or another language": bool(fields.get("is_deprecated")) or fields.get("language", "en") != "en",
        "uncertain": int(fields.get("relevance", 100)) < RELEVANCE or bool(fields.get("is_false_positive")),
        "short": len(text) < SHORTEST,  # or without the end of a sentence
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def drop_repeats(rows: Sequence[Row], stats: Stats) -> list[Row]:
    """Return the rows without equal texts, texts of several categories, and near-duplicates of earlier ones."""
    meant: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        meant[normalise(row.text)].add(row.category)
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    left = []
    for row in rows:
        key = normalise(row.text)
        reasons = {
            "several categories": len(meant[key]) > 1,
            "same text": key in seen,
            "more of one licence": counts[row.licence] == PER_LICENCE,
        }
        reason = next((reason for reason, holds in reasons.items() if holds), None)
        if reason:
            stats[reason] += 1
        else:
            counts[row.licence] += 1
            left.append(row)
        seen.add(key)
    repeats = near_repeats([row.text for row in left])
    stats["near duplicates"] += len(repeats)
    return [row for number, row in enumerate(left) if number not in repeats]


def family(licence: str) -> str:
    """Return the family of a licence: the first two words of its name, without a version; GNU's licences are one."""
    name = re.sub(r"(-?v?\d.*|-(plus|only|or-later))$", "", licence) or licence
    return re.sub(r"^[al]gpl", "gpl", "-".join(name.split("-")[:2]))


def families(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows in groups that must stay whole: by licence, by family of names, and by similar texts."""
    first: dict[str, int] = {}
    links = [(first.setdefault(family(row.licence), i), i) for i, row in enumerate(rows)]
    links += near_pairs([row.text for row in rows])
    return [[rows[i] for i in members] for members in linked(len(rows), links)]


def assign(groups: Sequence[Sequence[Row]]) -> dict[str, list[Row]]:
    """Return the rows of each split, shuffled; a group is never divided.

    Groups in the order of their hashes fill the held-out splits while all of their categories have room there.
    """
    total = Counter(row.category for members in groups for row in members)
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    counts = {split: Counter[str]() for split in SPLITS}
    for members in sorted(groups, key=lambda members: digest(min(row.id for row in members))):
        own = Counter(row.category for row in members)
        fits = (
            split
            for split, share in HELD_OUT.items()
            if len(members) <= LARGEST and all(counts[split][c] + n <= share * total[c] for c, n in own.items())
        )
        split = next(fits, "train")
        counts[split] += own
        splits[split] += members
    return {split: sorted(rows, key=lambda row: digest(f"order/{row.id}")) for split, rows in splits.items()}


def leaks(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the licences, families or near-duplicate texts that two splits have in common."""
    found = []
    for here, there in combinations(splits, 2):
        shared = {family(row.licence) for row in splits[here]} & {family(row.licence) for row in splits[there]}
        found += [f"{here} and {there} both have {name}" for name in sorted(shared)]
    rows = [(split, row) for split in splits for row in splits[split]]
    for i, j in near_pairs([row.text for _, row in rows], start=len(splits["train"])):
        if rows[i][0] != rows[j][0]:
            found.append(f"{rows[i][1].id} and {rows[j][1].id} are near-duplicates in two splits")
    return found


def licence() -> str:
    """Return the attribution that the source asks for, and its licence."""
    for file in metadata.files("licensedcode-data") or ():
        if file.name == "cc-by-4.0.LICENSE" and ".dist-info" in str(file):
            return f"CC-BY-4.0\n\n{ATTRIBUTION}\n\n{Path(str(file.locate())).read_text(encoding='utf-8').strip()}\n"
    raise UserError("licensedcode-data has no cc-by-4.0.LICENSE; install it again with pip")


def card(splits: Mapping[str, Sequence[Row]], stats: Stats, groups: Sequence[Sequence[Row]], entries: int) -> str:
    """Return the data card: the template with the numbers counted from the rows themselves."""
    categories = list(dict.fromkeys(CATEGORIES.values()))
    counts = []
    for split in SPLITS:
        rows = splits[split]
        by = Counter(row.category for row in rows)
        lengths = sum(len(row.text) for row in rows) / max(1, len(rows))
        notices, marked = sum(row.kind == "notice" for row in rows), sum(bool(row.passage) for row in rows)
        licences_of = len({row.licence for row in rows})
        counts.append([split, len(rows), licences_of, *(by[c] for c in categories), notices, marked, f"{lengths:.0f}"])
    names = defaultdict(list)
    for source, policy in CATEGORIES.items():
        names[policy].append(source)
    header = ["split", "rows", "licences", *categories, "notices", "with a passage", "mean characters"]
    return CARD.read_text(encoding="utf-8").format(
        package="`" + "`, `".join(f"{name}=={version}" for name, version in PINNED.items()) + "`",
        entries=f"{entries:,}",
        mapping=table(["policy category", "categories of ScanCode"], [[p, ", ".join(s)] for p, s in names.items()]),
        relevance=RELEVANCE,
        shortest=SHORTEST,
        longest=LONGEST,
        per_licence=PER_LICENCE,
        phrase=PHRASE,
        word_threshold=WORD_THRESHOLD,
        char_threshold=CHAR_THRESHOLD,
        shingle=SHINGLE,
        groups=len(groups),
        largest_group=max(map(len, groups)),
        largest=LARGEST,
        **HELD_OUT,
        reasons=table(list(stats), [list(stats.values())]),
        counts=table(header, counts),
    )


def read_package() -> dict[str, Entry]:
    """Return the entries of the installed database, by file name."""
    found = {}
    for file in metadata.files("licensedcode-data") or ():
        if str(file.parent) in ("licensedcode/data/rules", "licensedcode/data/licenses"):  # others are not in use
            found[file.name] = read_entry(Path(str(file.locate())).read_text(encoding="utf-8"))
    return found


def build(out: Path) -> str:
    """Write `out`/compliance from the installed package; return a line for the user.

    Raises UserError, before anything is written, for another version of the package, or if splits had texts in common.
    """
    check_versions("compliance", PINNED)
    stats: Stats = Counter()
    entries = read_package()
    groups = families(drop_repeats(read_rows(entries, stats), stats))
    splits = assign(groups)
    if found := leaks(splits):
        raise UserError(f"compliance: {len(found)} leaks between splits, the first: {found[0]}")
    folder = out / "compliance"
    texts = {split: "".join(row.as_json() for row in splits[split]) for split in SPLITS}
    write_folder(folder, texts, card(splits, stats, groups, len(entries)), licence())
    return f"{folder}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS) + " rows"
