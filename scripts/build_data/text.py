"""Shared code of the data builds: cleaning, exact and near-duplicates, hash orders, versions, files.

Nothing here uses random numbers or depends on hash seeds.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from softprompts.errors import UserError

import numpy as np

# Two texts are near-duplicates if either similarity (Jaccard) reaches its threshold. Words find a sentence with an
# added or replaced word; characters find one that is spelt or joined differently. Below these thresholds, pairs are
# mostly short stock phrases about different things ("great camera" and "great plan").
WORD_THRESHOLD = 0.6
CHAR_THRESHOLD = 0.5
SHINGLE = 4  # characters


def digest(key: str) -> str:
    """Return the SHA-256 of `key` in hexadecimal: the sort key of every pseudo-random order here."""
    return hashlib.sha256(key.encode()).hexdigest()


def clean(text: str) -> str:
    """Return `text` with HTML entities resolved and white space collapsed.

    The source has doubly escaped entities (`&amp;amp;`), hence the second pass.
    """
    return " ".join(html.unescape(html.unescape(text)).split())


def normalise(text: str) -> str:
    """Return the form in which equal texts count as duplicates: casefolded letters and digits only."""
    return "".join(c for c in text.casefold() if c.isalnum())


def _words(text: str) -> list[str]:
    """Return the words of `text` without user names and links, which the source replaced by placeholders."""
    text = re.sub(r"@\w+|https?://\S+", " ", text.casefold())
    return re.findall(r"[^\W_]+", re.sub(r"['’]", "", text))


def word_set(text: str) -> set[str]:
    """Return the distinct words of `text`; empty if it has only placeholders and symbols."""
    return set(_words(text))


def char_shingles(text: str) -> set[str]:
    """Return the `SHINGLE`-character pieces of the joined words of `text` (shorter texts: one piece)."""
    joined = "".join(_words(text))
    return {joined[i : i + SHINGLE] for i in range(max(1, len(joined) - SHINGLE + 1))} if joined else set()


def _similar(sets: Sequence[set[str]], threshold: float, start: int) -> set[tuple[int, int]]:
    """Return all pairs (i < j, j >= `start`) of sets whose Jaccard similarity is at least `threshold`.

    The search is exhaustive: an inverted index counts the shared pieces of all sets. Empty sets match none.
    """
    lists: dict[str, list[int]] = defaultdict(list)
    for i, pieces in enumerate(sets):
        for piece in pieces:
            lists[piece].append(i)
    index = {piece: np.array(holders) for piece, holders in lists.items()}
    sizes = np.array([len(pieces) for pieces in sets])
    pairs: set[tuple[int, int]] = set()
    for j in range(start, len(sets)):
        if sets[j]:
            shared = np.bincount(np.concatenate([index[piece] for piece in sets[j]]), minlength=j)[:j]
            close = shared / (sizes[:j] + sizes[j] - shared) >= threshold
            pairs.update((int(i), j) for i in np.flatnonzero(close))
    return pairs


def near_pairs(texts: Sequence[str], start: int = 0) -> list[tuple[int, int]]:
    """Return all near-duplicate pairs (i < j, j >= `start`) of `texts`, sorted; see `WORD_THRESHOLD`."""
    kinds: list[tuple[Callable[[str], set[str]], float]]
    kinds = [(word_set, WORD_THRESHOLD), (char_shingles, CHAR_THRESHOLD)]
    found = [_similar([pieces(text) for text in texts], threshold, start) for pieces, threshold in kinds]
    return sorted(set().union(*found))


def near_repeats(texts: Sequence[str]) -> set[int]:
    """Return the indices of texts that are near-duplicates of an earlier text, which itself stays."""
    earlier: dict[int, list[int]] = defaultdict(list)
    for i, j in near_pairs(texts):
        earlier[j].append(i)
    repeats: set[int] = set()
    for j in sorted(earlier):
        if not repeats.issuperset(earlier[j]):
            repeats.add(j)
    return repeats


def check_versions(task: str, pinned: Mapping[str, str]) -> None:
    """Raise UserError unless exactly the `pinned` versions of the packages are installed."""
    wrong = []
    for name, version in pinned.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "nothing"
        if found != version:
            wrong.append(f"{name}=={version} (found {found})")
    if wrong:
        command = " ".join(["pip install", *(f"{name}=={version}" for name, version in pinned.items())])
        raise UserError(f"{task} is built from {' and '.join(wrong)}; install it with `{command}`")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_folder(
    folder: Path, splits: Mapping[str, str], card: str, licence: str, more: Mapping[str, str] | None = None
) -> None:
    """Write a task's folder: a .jsonl of each split's text, `more` files, checksums of these, card and licence."""
    files = {f"{split}.jsonl": content for split, content in splits.items()} | dict(more or {})
    sums = [f"{digest(content)}  {name}\n" for name, content in files.items()]
    files |= {"SHA256SUMS": "".join(sums), "README.md": card, "LICENSE": licence}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content.encode("utf-8"))


def linked(count: int, links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the numbers below `count` in groups: two that are linked, or linked by others, are in one group."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, j in links:
        parent[max(root(i), root(j))] = min(root(i), root(j))
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(count):
        groups[root(i)].append(i)
    return list(groups.values())
