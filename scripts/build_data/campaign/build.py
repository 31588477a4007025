"""Build the campaign data: products with a description and a line of copy, in the voices of two houses.

Sources, each at a fixed commit: the topics of GitHub Explore (CC-BY-4.0), and the port files of Ravenports (ISC).
Every order comes from the SHA-256 of a key, so that every build gives the same bytes.
"""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from scripts.build_data.campaign.sources import (
    DESCRIPTION,
    GENERATED,
    PORT,
    TOPIC,
    Product,
    read_ports,
    read_topics,
    sentences_of,
)
from scripts.build_data.download import read_archive
from scripts.build_data.text import (
    CHAR_THRESHOLD,
    SHINGLE,
    WORD_THRESHOLD,
    char_shingles,
    digest,
    linked,
    near_pairs,
    near_repeats,
    normalise,
    table,
    word_set,
    write_folder,
)
from softprompts.errors import UserError

style = importlib.import_module("softprompts.metrics.modules.brand_voice")


@dataclass(frozen=True)
class Source:
    """A repository at a commit. `style` is the voice of the metric `brand_voice` that its lines have."""

    repository: str
    commit: str
    sha256: str
    style: str
    wanted: Callable[[str], bool]
    read: Callable[[Mapping[str, str]], Iterator[Product]]


LICENCE = {"explore": "CC-BY-4.0", "ravenports": "ISC"}
CC_BY = """CC-BY-4.0

Content based on github.com/github/explore used under the CC-BY-4.0 license. Copyright by its content authors.
Changed for this project: texts were cleaned of Markdown, cut and chosen; see README.md."""
LICENCES = ("LICENSE.txt", "README.md", "notices.md")  # files of a repository that have its licence
SOURCES = {
    "explore": Source(
        "github/explore",
        "cc66c619fd3c4dd79bc7bca22f685af1e0a67f3d",
        "8f4213b417b98f365d87c8db4ec327d133cdfc7262716e1c0a59e261e946ebba",
        "sentence",
        lambda path: path in LICENCES or TOPIC.fullmatch(path) is not None,
        read_topics,
    ),
    "ravenports": Source(
        "jrmarino/ravensource",
        "e37d8a9df30c9b9b612e6b3867772b4f104bff4b",
        "9c3ef8010fd887d7aad2b07448e035515b0b5c4fd24e4c825d88a45280390ec6",
        "label",
        lambda path: path in LICENCES or PORT.fullmatch(path) is not None,
        read_ports,
    ),
}
SPLITS = ("train", "validation", "test")
HELD_OUT = {"test": 150, "validation": 60}  # most rows per voice; the others are train
LARGEST = 6  # rows of a group that may be held out, so that no kind of product counts many times
SHORTEST, SHORTEST_COPY = 80, 15  # characters
CARD = Path(__file__).with_name("card.md")
REASONS = (
    "generated",
    "no line",
    "variable",
    "address",
    "short",
    "not in voice",
    "named",
    "copied",
    "repeats",
    "near duplicates",
)

Stats = dict[str, Counter[str]]


@dataclass(frozen=True)
class Row:
    """One product in one voice. `copy` is the line that the house has written."""

    id: str
    voice: str
    name: str
    description: str
    copy: str

    def as_json(self) -> str:
        """Return the row as one JSON line, with the columns in their published order."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def read_rows(voice: str, products: Iterable[Product], stats: Stats) -> list[Row]:
    """Return the usable products of a source, in the order of their paths; count what is left out."""
    rows = []
    for product in products:
        stats[voice]["source rows"] += 1
        if reason := _left_out(product, voice):
            stats[voice][reason] += 1
        else:
            name = product.path.split("/")[-2]
            rows.append(Row(f"{voice}-{name}", voice, product.name, product.description, product.copy))
    return rows


def _left_out(product: Product, voice: str) -> str | None:
    """Return why a product is left out, the first reason that holds; None if it is not."""
    if voice == "ravenports" and GENERATED.match(product.name):
        return "generated"
    if not product.copy:
        return "no line"
    if "${" in product.copy + product.description:
        return "variable"
    if re.search(r"\S@\S", product.copy + " " + product.description):
        return "address"
    if len(product.description) < SHORTEST or len(product.copy) < SHORTEST_COPY:
        return "short"
    if style.broken_rule(product.copy, SOURCES[voice].style):
        return "not in voice"
    if SOURCES[voice].style == "label" and has_name(product.copy, product.name):
        return "named"
    return "copied" if is_copied(product.copy, product.description) else None


def has_name(copy: str, name: str) -> bool:
    """Return whether a line has the name of its product as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", copy, re.IGNORECASE) is not None


def is_copied(copy: str, description: str) -> bool:
    """Return whether a description has the line itself, or a sentence that is nearly the same."""
    if normalise(copy) in normalise(description):
        return True
    for pieces, threshold in ((word_set, WORD_THRESHOLD), (char_shingles, CHAR_THRESHOLD)):
        own = pieces(copy)
        for sentence in sentences_of(description):
            other = pieces(sentence)
            if own and len(own & other) >= threshold * len(own | other):
                return True
    return False


def drop_repeats(rows: Sequence[Row], stats: Stats) -> list[Row]:
    """Return the rows without equal descriptions or lines, and without near-duplicates of earlier rows."""
    for column in ("description", "copy"):
        first: dict[str, Row] = {}
        for row in rows:
            if first.setdefault(normalise(getattr(row, column)), row) is not row:
                stats[row.voice]["repeats"] += 1
        rows = list(first.values())
    repeats = near_repeats([f"{row.description} {row.copy}" for row in rows])
    for number in repeats:
        stats[rows[number].voice]["near duplicates"] += 1
    return [row for number, row in enumerate(rows) if number not in repeats]


def group(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows in groups that must stay whole: by name, and by near-duplicate lines or descriptions."""
    first: dict[str, int] = {}
    links = [(first.setdefault(normalise(row.name), i), i) for i, row in enumerate(rows)]
    links += near_pairs([row.copy for row in rows]) + near_pairs([row.description for row in rows])
    return [[rows[i] for i in members] for members in linked(len(rows), links)]


def assign(groups: Iterable[Sequence[Row]], held_out: Mapping[str, int] = HELD_OUT) -> dict[str, list[Row]]:
    """Return the rows of each split, shuffled; a group is never divided.

    Groups in the order of their hashes fill each held-out split up to its number of rows per voice. A group that no
    longer fits goes to the next split, a group of more than `LARGEST` rows to train.
    """
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    filled: dict[str, Counter[str]] = defaultdict(Counter)
    for members in sorted(groups, key=lambda members: digest(min(row.id for row in members))):
        own = Counter(row.voice for row in members)
        fits = (
            split
            for split, most in held_out.items()
            if len(members) <= LARGEST and all(filled[split][voice] + n <= most for voice, n in own.items())
        )
        split = next(fits, "train")
        filled[split] += own
        splits[split] += members
    return {split: sorted(rows, key=lambda row: digest(f"order/{row.id}")) for split, rows in splits.items()}


def leaks(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the names, and the equal or similar lines or descriptions, that two splits have in common."""
    found = []
    for here, there in combinations(splits, 2):
        shared = {normalise(row.name) for row in splits[here]} & {normalise(row.name) for row in splits[there]}
        found += [f"{here} and {there} both have the product {name}" for name in sorted(shared)]
    rows = [(split, row) for split in splits for row in splits[split]]
    for column in ("copy", "description"):
        for i, j in near_pairs([getattr(row, column) for _, row in rows], start=len(splits["train"])):
            if rows[i][0] != rows[j][0]:
                found.append(f"{rows[i][1].id} and {rows[j][1].id} have near-duplicate {column} in two splits")
    return found


def licence(files: Mapping[str, Mapping[str, str]]) -> str:
    """Return the attribution and the licence of each source."""
    isc = re.search(r"(?s)^```\n(Copyright.*?)\n```$", files["ravenports"]["README.md"], re.MULTILINE)
    if isc is None:
        raise UserError("campaign: the README of Ravenports has no licence text")
    texts = {
        "explore": f"{CC_BY}\n\n{files['explore']['LICENSE.txt'].strip()}",
        "ravenports": f"ISC\n\n{isc[1].strip()}",
    }
    heads = {voice: f"Rows of the voice {voice}: https://github.com/{s.repository}" for voice, s in SOURCES.items()}
    parts = [f"{heads[voice]}, commit {SOURCES[voice].commit}\n\n{texts[voice]}" for voice in SOURCES]
    return "\n\n\n".join(["CC-BY-4.0 (voice explore) and ISC (voice ravenports)", *parts]) + "\n"


def card(splits: Mapping[str, Sequence[Row]], stats: Stats, groups: Sequence[Sequence[Row]]) -> str:
    """Return the data card: the template with the numbers counted from the rows themselves."""
    counts = []
    for split in SPLITS:
        for voice in SOURCES:
            rows = [row for row in splits[split] if row.voice == voice]
            means = [sum(len(getattr(row, c)) for row in rows) / max(1, len(rows)) for c in ("description", "copy")]
            named = sum(has_name(row.copy, row.name) for row in rows) / max(1, len(rows))
            counts.append([split, voice, len(rows), *(f"{mean:.0f}" for mean in means), f"{named:.0%}"])
    left = Counter(row.voice for rows in splits.values() for row in rows)
    reasons = [[v, stats[v]["source rows"], *(stats[v][reason] for reason in REASONS), left[v]] for v in SOURCES]
    both = [members for members in groups if {row.voice for row in members} == set(SOURCES)]
    examples = min(both, key=lambda members: digest(members[0].id), default=())  # one product in both voices
    return CARD.read_text(encoding="utf-8").format(
        sources=table(
            ["voice", "repository", "commit", "licence"],
            [
                [v, f"[{s.repository}](https://github.com/{s.repository})", f"`{s.commit}`", LICENCE[v]]
                for v, s in SOURCES.items()
            ],
        ),
        examples=table(["voice", "product", "line"], [[row.voice, row.name, row.copy] for row in examples]),
        **{f"longest_{name}": most for name, most in style.LONGEST.items()},
        longest=DESCRIPTION,
        shortest=SHORTEST,
        shortest_copy=SHORTEST_COPY,
        word_threshold=WORD_THRESHOLD,
        char_threshold=CHAR_THRESHOLD,
        shingle=SHINGLE,
        largest=LARGEST,
        groups=f"{len(groups):,}",
        largest_group=max(map(len, groups)),
        shared=len(both),
        **HELD_OUT,
        reasons=table(["voice", "source rows", *REASONS, "rows left"], reasons),
        counts=table(["split", "voice", "rows", "mean description", "mean line", "lines with the name"], counts),
    )


def build(out: Path, sources: Path) -> str:
    """Write `out`/campaign from the archives in `sources`, which are downloaded if missing; return a line.

    Raises UserError before writing, for other files than the pinned ones, or if splits have rows in common.
    """
    files = {v: read_archive(s.repository, s.commit, s.wanted, s.sha256, sources) for v, s in SOURCES.items()}
    stats: Stats = {voice: Counter() for voice in SOURCES}
    rows = [row for v, s in SOURCES.items() for row in read_rows(v, s.read(files[v]), stats)]
    groups = group(drop_repeats(rows, stats))
    splits = assign(groups)
    if found := leaks(splits):
        raise UserError(f"campaign: {len(found)} leaks between splits, the first: {found[0]}")
    folder = out / "campaign"
    texts = {split: "".join(row.as_json() for row in splits[split]) for split in SPLITS}
    write_folder(folder, texts, card(splits, stats, groups), licence(files))
    return f"{folder}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS) + " rows"
