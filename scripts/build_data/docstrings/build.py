"""Build the docstrings data: descriptions of functions, and their one-line summaries in house style.

Source: the docstrings of numpy, scipy, pandas and scikit-learn (BSD), read from the installed packages' .py files.
Every order comes from the SHA-256 of a key, so that every build gives the same bytes.
"""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import combinations
from pathlib import Path

from scripts.build_data.docstrings.sources import (
    DESCRIPTION,
    PROSE,
    SECTION,
    SIGNATURE,
    Documented,
    describe,
    read_package,
)
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

# Metrics are loaded as scripts. This metric's rule also chooses the rows.
style = importlib.import_module("softprompts.metrics.modules.docstring_style")

PINNED = {"numpy": "2.4.6", "scipy": "1.17.1", "pandas": "3.1.1", "scikit-learn": "1.9.1"}
FOLDERS = {"scikit-learn": "sklearn"}  # packages whose import name differs
# Files with the licences of each package, below its .dist-info.
LICENCES = {
    "numpy": ("licenses/LICENSE.txt", "licenses/numpy/ma/LICENSE"),
    "scipy": ("LICENSE.txt",),
    "pandas": ("licenses/LICENSE",),
    "scikit-learn": ("licenses/COPYING",),
}
SPLITS = ("train", "validation", "test")
HELD_OUT = {"test": 450, "validation": 180}  # most rows; the others are train
LARGEST = 8  # most rows of a held-out group, so that no family counts many times
SHORTEST_SUMMARY = 15  # characters; the metric limits the length
SHORTEST = 60  # characters of a description
TOLD = 1 / 3  # smallest share of the summary's words in signature or description
STEM = 4  # number of letters for comparing words
# Words without content in summaries.
NO_CONTENT = "and apply are compute calculate for from get given its make return that the this using with"
EMPTY = set(NO_CONTENT.split())
CARD = Path(__file__).with_name("card.md")

Stats = dict[str, Counter[str]]


@dataclass(frozen=True)
class Row:
    """One docstring; `id` is its dotted name without private modules."""

    id: str
    library: str
    signature: str
    description: str
    summary: str

    @property
    def name(self) -> str:
        """The bare name of the function, which identifies siblings in other modules and classes."""
        return self.id.rpartition(".")[2].lower().strip("_")

    def as_json(self) -> str:
        """Return the row as one JSON line, with the columns in their published order."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def stems(text: str) -> set[str]:
    """Return the first letters of the content words of `text`; CamelCase and snake_case are split."""
    words = re.findall(r"[a-z]{3,}", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
    return {word[:STEM] for word in words if word not in EMPTY}


def told_share(row: Row) -> float:
    """Return the share of the summary's words that signature or description also have, so that it can be guessed."""
    wanted = stems(row.summary)
    return len(wanted & stems(f"{row.signature} {row.description}")) / max(1, len(wanted))


# Reasons to leave out a docstring whose summary follows the style, in the order of the checks.
SOURCE_REASONS: dict[str, Callable[[Documented], bool]] = {
    "special method": lambda item: ".__" in item.id,
    # A private helper whose docstring has no sections was written for readers of its code.
    "private": lambda item: "._" in item.id and not SECTION.search(item.body),
    "deprecated": lambda item: item.deprecated,
    "short summary": lambda item: len(item.summary) < SHORTEST_SUMMARY,
}
ROW_REASONS: dict[str, Callable[[Row], bool]] = {
    "little text": lambda row: len(row.description) < SHORTEST,
    "template": lambda row: re.search(r"%\(|\{\w+\}", row.summary + row.description) is not None,
    "told verbatim": lambda row: normalise(row.summary) in normalise(row.description),
    "not told": lambda row: told_share(row) < TOLD,
}
SET_REASONS = ("same id", "same summary", "near duplicates")


def read_rows(library: str, items: Iterable[Documented], stats: Stats) -> list[Row]:
    """Return the rows that follow the style and can be learned from, and count the reasons against the others."""
    rows = []
    for item in items:
        stats[library]["docstrings"] += 1
        if broken := style.broken_rule(item.summary):
            stats[library][broken] += 1
            continue
        stats[library]["in style"] += 1
        reason = next((reason for reason, holds in SOURCE_REASONS.items() if holds(item)), None)
        if reason is None:
            row = Row(item.id, library, item.signature, describe(item.body), item.summary)
            reason = next((reason for reason, holds in ROW_REASONS.items() if holds(row)), None)
        if reason is None:
            rows.append(row)
        else:
            stats[library][reason] += 1
    return rows


def drop_repeats(rows: Sequence[Row], stats: Stats) -> list[Row]:
    """Return the first row of each id, of each normalised summary, and of near-duplicates as a whole."""
    keys: tuple[Callable[[Row], str], ...] = (lambda row: row.id, lambda row: normalise(row.summary))
    for reason, key in zip(SET_REASONS, keys, strict=False):
        first: dict[str, Row] = {}
        for row in rows:
            if first.setdefault(key(row), row) is not row:
                stats[row.library][reason] += 1
        rows = list(first.values())
    repeats = near_repeats([f"{row.signature} {row.description} {row.summary}" for row in rows])
    for i in repeats:
        stats[rows[i].library][SET_REASONS[-1]] += 1
    return [row for i, row in enumerate(rows) if i not in repeats]


def group(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows in groups that must stay whole.

    Rows are linked by a common name, or by near-duplicate summaries or descriptions.
    """
    first: dict[str, int] = {}
    links = [(first.setdefault(row.name, i), i) for i, row in enumerate(rows)]
    links += near_pairs([row.summary for row in rows]) + near_pairs([row.description for row in rows])
    return [[rows[i] for i in members] for members in linked(len(rows), links)]


def assign_splits(groups: Iterable[Sequence[Row]], held_out: Mapping[str, int] = HELD_OUT) -> dict[str, list[Row]]:
    """Return the rows of each split, shuffled; a group is never divided.

    Groups in the order of their hashes fill each held-out split up to its number of rows. A group that no longer fits
    goes to the next split, a group of more than `LARGEST` rows to train.
    """
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for members in sorted(groups, key=lambda members: digest(min(row.id for row in members))):
        fits = (s for s, size in held_out.items() if len(members) <= min(LARGEST, size - len(splits[s])))
        splits[next(fits, "train")] += members
    return {split: sorted(rows, key=lambda row: digest(f"order/{row.id}")) for split, rows in splits.items()}


def leaks(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the names, and the equal or similar summaries or descriptions, that two splits have in common."""
    found = []
    for here, there in combinations(splits, 2):
        shared = {row.name for row in splits[here]} & {row.name for row in splits[there]}
        found += [f"{here} and {there} both have the name {name}" for name in sorted(shared)]
    rows = [(split, row) for split in splits for row in splits[split]]
    for column in ("summary", "description"):
        for i, j in near_pairs([getattr(row, column) for _, row in rows], start=len(splits["train"])):
            if rows[i][0] != rows[j][0]:
                found.append(f"{rows[i][1].id} and {rows[j][1].id} have near-duplicate {column} in two splits")
    return found


def licence() -> str:
    """Return the licences of the four packages, without those of libraries in their binaries."""
    texts = [f"BSD-3-Clause ({', '.join(PINNED)})"]
    for library, names in LICENCES.items():
        files = {str(file).partition("/")[2]: file for file in metadata.files(library) or ()}
        for name in names:
            text = Path(files[name].locate()).read_text(encoding="utf-8").partition("\n----\n")[0].strip()
            texts.append(f"{library} {PINNED[library]}, {name.removeprefix('licenses/')}:\n\n{text}")
    return "\n\n".join(texts) + "\n"


def card(splits: Mapping[str, Sequence[Row]], stats: Stats, groups: Sequence[Sequence[Row]]) -> str:
    """Return the data card: the template with the numbers counted from the rows themselves."""

    def counts(reasons: Sequence[str]) -> list[list[object]]:
        return [[name, *(stats[name][reason] for reason in reasons)] for name in PINNED]

    rows = [row for split in SPLITS for row in splits[split]]
    left = Counter(row.library for row in rows)
    rules = ["docstrings", *style.RULES, "in style"]
    reasons = [*SOURCE_REASONS, *ROW_REASONS, *SET_REASONS]
    sizes = []
    for split in SPLITS:
        by = Counter(row.library for row in splits[split])
        means = [sum(len(getattr(row, c)) for row in splits[split]) for c in ("signature", "description", "summary")]
        shares = [f"{total / max(1, len(splits[split])):.0f}" for total in means]
        sizes.append([split, *(by[name] for name in PINNED), len(splits[split]), *shares])
    return CARD.read_text(encoding="utf-8").format(
        packages=", ".join(f"`{name}=={version}`" for name, version in PINNED.items()),
        libraries=", ".join(f"`{name}`" for name in PINNED),
        longest=style.LONGEST,
        shortest_summary=SHORTEST_SUMMARY,
        shortest=SHORTEST,
        signature=SIGNATURE,
        description=DESCRIPTION,
        prose=PROSE,
        stem=STEM,
        word_threshold=WORD_THRESHOLD,
        char_threshold=CHAR_THRESHOLD,
        shingle=SHINGLE,
        largest=LARGEST,
        groups=len(groups),
        largest_group=max(map(len, groups)),
        **HELD_OUT,
        rules=table(["library", *rules], counts(rules)),
        reasons=table(["library", *reasons, "rows left"], [[*line, left[str(line[0])]] for line in counts(reasons)]),
        sizes=table(["split", *PINNED, "rows", "mean signature", "mean description", "mean summary"], sizes),
    )


def build(out: Path) -> str:
    """Write `out`/docstrings from the installed packages; return a line for the user.

    Raises UserError before writing, for another version of a package, or if splits have rows in common.
    """
    check_versions("docstrings", PINNED)
    stats: Stats = {library: Counter() for library in PINNED}
    rows = []
    for library in PINNED:
        folder = Path(str(metadata.distribution(library).locate_file(FOLDERS.get(library, library))))
        rows += read_rows(library, read_package(folder), stats)
    groups = group(drop_repeats(rows, stats))
    splits = assign_splits(groups)
    if found := leaks(splits):
        raise UserError(f"docstrings: {len(found)} leaks between splits, the first: {found[0]}")
    folder = out / "docstrings"
    texts = {split: "".join(row.as_json() for row in splits[split]) for split in SPLITS}
    write_folder(folder, texts, card(splits, stats, groups), licence())
    return f"{folder}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS) + " rows"
