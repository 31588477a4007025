"""The localisation data: texts of user interfaces in English, and in German, French and Spanish.

Source: the compiled catalogues of JupyterLab's language packs and of Django (BSD-3-Clause), read from the installed
packages. Every order comes from SHA-256 of a key, so that a build gives the same bytes every time.
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import combinations
from pathlib import Path

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

PACKS = "jupyterlab-language-pack-{0}-{0}"
PINNED = {
    "jupyterlab-language-pack-de-de": "4.5.post3",
    "jupyterlab-language-pack-fr-fr": "4.5.post3",
    "jupyterlab-language-pack-es-es": "4.5.post3",
    "django": "5.2.19",
}
# The code of each language, and its name in the rows.
LANGUAGES = {"de": "German", "fr": "French", "es": "Spanish"}
SPLITS = ("train", "validation", "test")
HELD_OUT = {"test": 0.16, "validation": 0.06}  # share of the English texts
SHORTEST, LONGEST = 3, 250  # characters of a text
RATIO = 3.0  # of the lengths of text and translation at most, from 20 characters on
LARGEST = 12  # texts of a group that may be held out
# Parts that translations do not change: Python's and JavaScript's fields, tags, entities.
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]|%\d|\{\w*\}|</?\w[^<>]*>|&\w+;")
TERM = re.compile(r"[A-Za-z]{3,}( [A-Za-z]{3,})?")  # one word, or two
WORDS = re.compile(r"[^\W\d_]+( [^\W\d_]+)?")  # one word or two, of a translation
TERM_TEXTS = 5  # texts of train that have a term, at least
SHORTEST_STEM = 4  # letters that the forms of a term have in common
LONGER = 2  # letters by which a form may be longer or shorter than the term
CONSISTENT = (
    0.5  # share of the texts with a term that have one of its forms, and of those with a form that have the term
)
# Words that are not terms.
_NO_TERMS = "all and any are but can for from has may not off one the this with yes you your"
NO_TERMS = frozenset(_NO_TERMS.split())
CARD = Path(__file__).with_name("card.md")

MAGIC = 0x950412DE  # of a compiled catalogue, with the byte order of the machine that wrote it
Stats = Counter[str]
Glossary = dict[str, dict[str, list[str]]]  # by language and English term, the accepted forms


@dataclass(frozen=True)
class Row:
    """An English text and its translation; `catalogue` is its source."""

    id: str
    catalogue: str
    language: str
    text: str
    translation: str

    def as_json(self) -> str:
        """Return the row as one JSON line, with the columns in their published order."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def read_catalogue(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the texts and translations of a compiled catalogue; of a plural the singular, without its context.

    Format: GNU gettext's manual, "The Format of GNU MO Files".
    """
    order = "<" if struct.unpack_from("<I", data)[0] == MAGIC else ">"
    _, _, count, originals, translations = struct.unpack_from(f"{order}5I", data)
    for number in range(count):
        pair = []
        for place in (originals, translations):
            length, offset = struct.unpack_from(f"{order}2I", data, place + 8 * number)
            pair.append(data[offset : offset + length].decode("utf-8").partition("\0")[0])
        text, translation = pair
        if text:  # the first entry is the catalogue's head
            yield text.rpartition("\x04")[2], translation


def catalogues() -> Iterator[tuple[str, str, Path]]:
    """Yield the installed catalogues: name, code of the language, file. JupyterLab's own comes first."""
    found = []
    for code in LANGUAGES:
        for package in (PACKS.format(code), "django"):
            for file in metadata.files(package) or ():
                parts = file.parts
                if file.suffix == ".mo" and parts[-2] == "LC_MESSAGES" and parts[-3].split("_")[0] == code:
                    if package == "django" and parts[-3] != code:  # de_CH, es_MX
                        continue
                    name = file.stem if package != "django" else "/".join(["django", *parts[1:-4], file.stem])
                    found.append((package == "django", name != "jupyterlab", name, code, Path(str(file.locate()))))
    for *_, name, code, path in sorted(found):
        yield name, code, path


def read_rows(stats: Stats) -> list[Row]:
    """Return the translated texts, the first of each language and English text, and count what is left out."""
    rows: dict[tuple[str, str], Row] = {}
    for catalogue, code, path in catalogues():
        for text, translation in read_catalogue(path.read_bytes()):
            text, translation = " ".join(text.split()), " ".join(translation.split())
            stats["entries"] += 1
            key = (code, normalise(text))
            reason = "in an earlier catalogue" if key in rows else left_out(text, translation)
            if reason:
                stats[reason] += 1
            else:
                rows[key] = Row(f"{code}-{digest(text)[:12]}", catalogue, LANGUAGES[code], text, translation)
    return list(rows.values())


def left_out(text: str, translation: str) -> str | None:
    """Return the first reason why a pair is left out; None if it is not."""
    lengths = sorted((len(text), len(translation)))
    reasons = {
        "no letters": not re.search(r"[^\W\d_]{2}", PLACEHOLDER.sub("", text)),
        "length": lengths[0] < SHORTEST or lengths[1] > LONGEST,
        "not translated": normalise(text) == normalise(translation),
        "other placeholders": sorted(PLACEHOLDER.findall(text)) != sorted(PLACEHOLDER.findall(translation)),
        "other length": lengths[1] > 20 and lengths[1] > RATIO * lengths[0],
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def drop_repeats(rows: Sequence[Row], stats: Stats) -> list[Row]:
    """Return the rows without near-duplicates of earlier English texts, and without equal translations."""
    texts = sorted({row.text for row in rows}, key=lambda text: digest(f"keep/{text}"))
    repeated = {texts[number] for number in near_repeats(texts)}
    left = [row for row in rows if row.text not in repeated]
    stats["near-duplicates"] += len(rows) - len(left)
    first: dict[tuple[str, str], Row] = {}
    for row in sorted(left, key=lambda row: digest(f"keep/{row.text}")):
        first.setdefault((row.language, normalise(row.translation)), row)
    stats["same translation"] += len(left) - len(first)
    return list(first.values())


def assign(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the shuffled rows of each split; a text, and texts with similar translations, are in one split."""
    texts = sorted({row.text for row in rows}, key=digest)
    number = {text: n for n, text in enumerate(texts)}
    links = []
    for language in LANGUAGES.values():
        mine = [row for row in rows if row.language == language]
        pairs = near_pairs([row.translation for row in mine])
        links += [(number[mine[i].text], number[mine[j].text]) for i, j in pairs]
    split_of: dict[str, str] = {}
    room = {split: share * len(texts) for split, share in HELD_OUT.items()}
    for group in sorted(linked(len(texts), links), key=lambda group: digest(f"split/{texts[group[0]]}")):
        fits = (split for split, left in room.items() if len(group) <= min(LARGEST, left))
        split = next(fits, "train")
        if split in room:
            room[split] -= len(group)
        split_of |= {texts[n]: split for n in group}
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in sorted(rows, key=lambda row: digest(f"order/{row.id}")):
        splits[split_of[row.text]].append(row)
    return splits


def leaks(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the near-duplicate texts, or translations of one language, that two splits have in common."""
    found = []
    for here, there in combinations(splits, 2):
        for language in LANGUAGES.values():
            first, second = ([r for r in splits[s] if r.language == language] for s in (here, there))
            for column in ("text", "translation"):
                values = [getattr(row, column) for row in (*first, *second)]
                pairs = near_pairs(values, start=len(first))
                found += [
                    f"{values[j]!r} of {there} is like {values[i]!r} of {here}" for i, j in pairs if i < len(first)
                ]
    return found


def glossary(rows: Sequence[Row]) -> Glossary:
    """Return the terms of each language, with the forms that train translates them by in most of the texts.

    A term is a short text of train that more than `TERM_TEXTS` texts there have.
    """
    found: Glossary = {}
    for language in LANGUAGES.values():
        mine = [row for row in rows if row.language == language]
        words = {row.id: set(re.findall(r"[^\W\d_]+", row.translation.casefold())) for row in mine}
        found[language] = {}
        for row in sorted(mine, key=lambda row: row.text.casefold()):
            if not TERM.fullmatch(row.text) or not WORDS.fullmatch(row.translation) or row.text.lower() in NO_TERMS:
                continue
            own = {other.id for other in mine if has(row.text, other.text)}
            accepted = forms(row.translation.casefold(), own, words)
            right = sum(other.id in own and any(has(f, other.translation) for f in accepted) for other in mine)
            if len(own) > TERM_TEXTS and right >= CONSISTENT * len(own):
                found[language][row.text.casefold()] = accepted
    return found


def forms(translation: str, own: Set[str], words: Mapping[str, Set[str]]) -> list[str]:
    """Return a translation and its forms: words with the same beginning that are used for the same term.

    Args:
        own: ids of the rows with the term; words: the words of each row's translation, by its id.
    """
    stem = translation[: max(SHORTEST_STEM, len(translation) - LONGER)]
    found = {translation}
    for word in set().union(*(words[key] for key in own)) if " " not in translation else ():
        holders = {key for key, said in words.items() if word in said}
        near = word.startswith(stem) and abs(len(word) - len(translation)) <= LONGER
        if near and len(holders & own) >= CONSISTENT * len(holders):
            found.add(word)
    return sorted(found)


def has(term: str, text: str) -> bool:
    """Return whether a text has a term as a whole word or phrase."""
    return re.search(rf"(?<!\w){re.escape(term)}(?!\w)", text, re.IGNORECASE) is not None


def mentions(row: Row, terms: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the required parts of a translation: the text's placeholders, and terms as in the reference."""
    found = [[sign] for sign in dict.fromkeys(PLACEHOLDER.findall(row.text))]
    for term, accepted in terms.items():
        if has(term, row.text) and any(has(form, row.translation) for form in accepted):
            found.append(list(accepted))
    return found


def metric_data(splits: Mapping[str, Sequence[Row]], terms: Glossary) -> dict[str, dict[str, list[list[str]]]]:
    """Return the required parts, if any, of each held-out row's translation."""
    data: dict[str, dict[str, list[list[str]]]] = {}
    for split in ("validation", "test"):
        for row in splits[split]:
            for wanted in mentions(row, terms[row.language]):
                known = data.setdefault(row.translation, {"mentions": []})["mentions"]
                if wanted not in known:  # two languages may share a translation
                    known.append(wanted)
    return dict(sorted(data.items()))


def card(splits: Mapping[str, Sequence[Row]], stats: Stats, terms: Glossary, data: Mapping[str, object]) -> str:
    """Return the data card: the template with the numbers counted from the rows themselves."""
    counts = []
    for language in LANGUAGES.values():
        for split in SPLITS:
            mine = [row for row in splits[split] if row.language == language]
            jupyter = sum(not row.catalogue.startswith("django") for row in mine)
            lengths = [sum(len(getattr(r, c)) for r in mine) / max(1, len(mine)) for c in ("text", "translation")]
            required = sum(row.translation in data for row in mine) if split != "train" else ""
            counts.append([language, split, len(mine), jupyter, *(f"{n:.0f}" for n in lengths), required])
    header = ["language", "split", "rows", "of JupyterLab", "mean text", "mean translation", "rows with required terms"]
    shown = [[language, len(own), ", ".join(sorted(own)[:12])] for language, own in terms.items()]
    return CARD.read_text(encoding="utf-8").format(
        packages=", ".join(f"`{name}=={version}`" for name, version in PINNED.items()),
        shortest=SHORTEST,
        longest=LONGEST,
        ratio=RATIO,
        word_threshold=WORD_THRESHOLD,
        char_threshold=CHAR_THRESHOLD,
        shingle=SHINGLE,
        largest=LARGEST,
        **HELD_OUT,
        term_texts=TERM_TEXTS,
        longer=LONGER,
        consistent=CONSISTENT,
        reasons=table(list(stats), [list(stats.values())]),
        terms=table(["language", "terms", "for example"], shown),
        counts=table(header, counts),
    )


def licence() -> str:
    """Return the licences of the packages."""
    texts = ["BSD-3-Clause (JupyterLab's language packs, Django)"]
    for package in ("jupyterlab-language-pack-de-de", "django"):
        name = "LICENSE.txt" if package != "django" else "LICENSE"
        file = next(f for f in metadata.files(package) or () if f.name == name and ".dist-info" in str(f))
        text = Path(str(file.locate())).read_text(encoding="utf-8").replace("\r\n", "\n").strip()
        texts.append(f"{'the language packs' if package != 'django' else package}, {name}:\n\n{text}")
    return "\n\n".join(texts) + "\n"


def build(out: Path) -> str:
    """Write `out`/localisation from the installed packages; return a line for the user.

    Raises UserError, before anything is written, for another version of a package, or if splits had texts in common.
    """
    check_versions("localisation", PINNED)
    stats: Stats = Counter()
    splits = assign(drop_repeats(read_rows(stats), stats))
    if found := leaks(splits):
        raise UserError(f"localisation: {len(found)} leaks between splits, the first: {found[0]}")
    terms = glossary(splits["train"])
    data = metric_data(splits, terms)
    texts = {split: "".join(row.as_json() for row in splits[split]) for split in SPLITS}
    contents = {"glossary.json": terms, "terms.json": data}
    more = {name: json.dumps(content, ensure_ascii=False, indent=1) + "\n" for name, content in contents.items()}
    folder = out / "localisation"
    write_folder(folder, texts, card(splits, stats, terms, data), licence(), more)
    return f"{folder}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS) + " rows"
