"""Build the support data: questions to a bank, each with a queue, a priority and the id of its answer.

Source: Banking77 (CC-BY-4.0, Casanueva et al. 2020) at a fixed commit. `routing.yaml` gives each intent its queue and
priority; this table is ours. Every order comes from the SHA-256 of a key, so that every build gives the same bytes.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from scripts.build_data.download import read_file
from scripts.build_data.text import (
    CHAR_THRESHOLD,
    SHINGLE,
    WORD_THRESHOLD,
    clean,
    digest,
    near_pairs,
    normalise,
    table,
    write_folder,
)
from softprompts.errors import UserError

import yaml
from jsonschema import Draft202012Validator

REPOSITORY = "PolyAI-LDN/task-specific-datasets"
COMMIT = "57ec275d8078af65b7731c2a98be812d844a6d6b"
FILES = {
    "banking_data/train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
    "banking_data/test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
    "LICENSE": "7e7170e3cebf88a9f60c7b8421418323c09304da1af4d5e90f4da1dc1c8a2661",
}
ATTRIBUTION = """CC-BY-4.0 (Banking77)

Banking77: Inigo Casanueva, Tadas Temcinas, Daniela Gerz, Matthew Henderson, Ivan Vulic (PolyAI), 2020,
"Efficient Intent Detection with Dual Sentence Encoders", https://arxiv.org/abs/2003.04807
Source: https://github.com/{repository}, commit {commit}
Licence: CC-BY-4.0, below.
Changed for this project: questions were chosen, near-duplicates left out, and intents joined with queues and
priorities; see README.md."""
SPLITS = ("train", "validation", "test")
# Rows of an answer at most. All answers get equally many, so that rare ones are learned and scored too.
MOST = {"train": 32, "validation": 4, "test": 8}
FEWEST = {"train": 8, "validation": 1, "test": 2}  # fewer would leave an answer unlearned or unscored
SHORTEST = 3  # words of a question
ROUTING = Path(__file__).with_name("routing.yaml")
CARD = Path(__file__).with_name("card.md")
REASONS = ("short", "several intents", "same text", "near duplicates of test", "near duplicates of its intent")

Stats = dict[str, Counter[str]]
Routes = dict[str, tuple[str, str]]  # queue and priority by answer


@dataclass(frozen=True)
class Row:
    """One question. `answer` is the id of the help article, and `ticket` all three values as JSON text."""

    id: str
    text: str
    queue: str
    priority: str
    answer: str
    ticket: str

    def as_json(self) -> str:
        """Return the row as one JSON line, with the columns in their published order."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def answer_of(intent: str) -> str:
    """Return the id of an intent's answer: two intents of the source have a capital letter or a question mark."""
    return intent.lower().rstrip("?")


def read_routes(text: str) -> Routes:
    """Return the queue and the priority of each answer; UserError if an answer has two, or a priority is unknown."""
    tree = yaml.safe_load(text)
    found: Routes = {}
    for queue, parts in tree["queues"].items():
        for priority, answers in parts.items():
            if priority == "for":
                continue
            if priority not in tree["priorities"]:
                raise UserError(f"{ROUTING.name}: {queue}: unknown priority {priority}")
            for answer in answers:
                if answer in found:
                    raise UserError(f"{ROUTING.name}: {answer} has two places: {found[answer][0]} and {queue}")
                found[answer] = (queue, priority)
    return found


def schema(routes: Routes, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a ticket: three values, and an answer belongs to its queue."""
    by_queue: dict[str, list[str]] = defaultdict(list)
    for answer, (queue, _) in sorted(routes.items()):
        by_queue[queue].append(answer)
    names = {"queue": list(tree["queues"]), "priority": list(tree["priorities"]), "answer": sorted(routes)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Where a question goes, how soon, and its answer",
        "type": "object",
        "properties": {name: {"enum": values} for name, values in names.items()},
        "required": list(names),
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"queue": {"const": queue}}},
                "then": {"properties": {"answer": {"enum": by_queue[queue]}}},
            }
            for queue in names["queue"]
        ],
    }


def read_rows(name: str, content: str, routes: Routes) -> list[Row]:
    """Return the rows of a file of the source, in its order; UserError for an intent without a place in `routes`."""
    rows = []
    for number, line in enumerate(csv.DictReader(content.splitlines(keepends=True)), start=1):
        answer = answer_of(line["category"])
        if answer not in routes:
            raise UserError(f"{name}, row {number}: {ROUTING.name} has no place for {answer}")
        queue, priority = routes[answer]
        ticket = json.dumps({"queue": queue, "priority": priority, "answer": answer})
        rows.append(Row(f"{name}-{number}", clean(line["text"]), queue, priority, answer, ticket))
    return rows


def choose(test: Sequence[Row], train: Sequence[Row], stats: Stats) -> dict[str, list[Row]]:
    """Return the rows of each split, shuffled. Validation and train come from the source's train.

    A row of train that resembles any row of the source's test is left out, and also one that resembles a chosen row of
    validation. Within a split, rows of one answer do not resemble each other.
    """
    test, train = _different(test, train, stats)
    by_hash = [sorted(rows, key=lambda row: digest(f"keep/{row.id}")) for rows in (test, train)]
    rows = [*by_hash[0], *by_hash[1]]
    like: dict[int, set[int]] = defaultdict(set)
    for i, j in near_pairs([row.text for row in rows]):
        like[i].add(j)
        like[j].add(i)
    held = {i for i, row in enumerate(rows) if row.id.startswith("test-")}
    free = [i for i in range(len(rows)) if i not in held and not like[i] & held]
    stats["train"]["near duplicates of test"] += len(rows) - len(held) - len(free)
    chosen = {"test": _take(rows, sorted(held), like, "test", stats)}
    chosen["validation"] = _take(rows, free, like, "validation", stats)
    taken = set(chosen["validation"])
    left = [i for i in free if i not in taken and not like[i] & taken]
    chosen["train"] = _take(rows, left, like, "train", stats)
    return {
        split: sorted((rows[i] for i in chosen[split]), key=lambda row: digest(f"order/{row.id}")) for split in SPLITS
    }


def _different(test: Sequence[Row], train: Sequence[Row], stats: Stats) -> tuple[list[Row], list[Row]]:
    """Return the rows without short ones, equal texts, and texts of several intents."""
    meant: dict[str, set[str]] = defaultdict(set)
    for row in (*test, *train):
        meant[normalise(row.text)].add(row.answer)
    seen: set[str] = set()
    left: dict[str, list[Row]] = {"test": [], "train": []}
    for split, rows in (("test", test), ("train", train)):
        for row in rows:
            stats[split]["source rows"] += 1
            key = normalise(row.text)
            reasons = {
                "short": len(row.text.split()) < SHORTEST,
                "several intents": len(meant[key]) > 1,
                "same text": key in seen,
            }
            seen.add(key)
            if reason := next((reason for reason, holds in reasons.items() if holds), None):
                stats[split][reason] += 1
            else:
                left[split].append(row)
    return left["test"], left["train"]


def _take(
    rows: Sequence[Row], numbers: Sequence[int], like: Mapping[int, set[int]], split: str, stats: Stats
) -> list[int]:
    """Return up to `MOST` of the numbers for each answer, in their order; none resembles another of its answer."""
    counts: Counter[str] = Counter()
    taken: set[int] = set()
    for number in numbers:
        answer = rows[number].answer
        if counts[answer] == MOST[split]:
            continue
        if any(rows[other].answer == answer for other in like.get(number, ()) if other in taken):
            stats["test" if split == "test" else "train"]["near duplicates of its intent"] += 1
            continue
        counts[answer] += 1
        taken.add(number)
    return sorted(taken)


def check(splits: Mapping[str, Sequence[Row]], rules: Mapping[str, Any], routes: Routes) -> None:
    """Raise UserError if a ticket violates the schema, an answer lacks rows, or splits share near-duplicates."""
    Draft202012Validator.check_schema(rules)
    validator = Draft202012Validator(rules)
    for split, rows in splits.items():
        counts = Counter(row.answer for row in rows)
        if few := sorted(answer for answer in routes if counts[answer] < FEWEST[split]):
            raise UserError(f"{split} has fewer than {FEWEST[split]} rows of {', '.join(few)}")
        for row in rows:
            if error := next(validator.iter_errors(json.loads(row.ticket)), None):
                raise UserError(f"{row.id}: {row.ticket} does not fit the schema: {error.message}")
    if found := leaks(splits):
        raise UserError(f"support: {len(found)} leaks between splits, the first: {found[0]}")


def leaks(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the near-duplicate texts and equal ids that two splits have in common."""
    found = []
    for here, there in combinations(splits, 2):
        shared = {row.id for row in splits[here]} & {row.id for row in splits[there]}
        found += [f"{here} and {there} both have {name}" for name in sorted(shared)]
    rows = [(split, row) for split in splits for row in splits[split]]
    for i, j in near_pairs([row.text for _, row in rows], start=len(splits["train"])):
        if rows[i][0] != rows[j][0]:
            found.append(f"{rows[i][1].id} and {rows[j][1].id} are near-duplicates in two splits")
    return found


def card(splits: Mapping[str, Sequence[Row]], stats: Stats, tree: Mapping[str, Any], routes: Routes) -> str:
    """Return the data card: the template with the numbers counted from the rows themselves."""
    priorities, queues = list(tree["priorities"]), list(tree["queues"])
    counts = []
    for split in SPLITS:
        by = Counter(row.priority for row in splits[split])
        each = Counter(row.answer for row in splits[split])
        lengths = sum(len(row.text.split()) for row in splits[split]) / max(1, len(splits[split]))
        line = [split, len(splits[split]), *(by[p] for p in priorities), min(each.values()), max(each.values())]
        counts.append([*line, f"{lengths:.1f}"])
    rows_of = Counter((split, row.queue) for split in SPLITS for row in splits[split])
    answers_of = Counter(queue for queue, _ in routes.values())
    places = [
        [q, tree["queues"][q]["for"], answers_of[q], "/".join(str(rows_of[split, q]) for split in SPLITS)]
        for q in queues
    ]
    left = [[name, stats[name]["source rows"], *(stats[name][reason] for reason in REASONS)] for name in stats]
    return CARD.read_text(encoding="utf-8").format(
        repository=REPOSITORY,
        commit=COMMIT,
        answers=len(routes),
        queues=len(queues),
        shortest=SHORTEST,
        word_threshold=WORD_THRESHOLD,
        char_threshold=CHAR_THRESHOLD,
        shingle=SHINGLE,
        **MOST,
        priorities=table(["priority", "rule"], [[p, tree["priorities"][p]] for p in priorities]),
        places=table(["queue", "for", "answers", "rows of train/validation/test"], places),
        left=table(["file", "source rows", *REASONS], left),
        counts=table(["split", "rows", *priorities, "fewest of an answer", "most", "mean words"], counts),
    )


def build(out: Path, sources: Path) -> str:
    """Write `out`/support from Banking77's files in `sources`, which are downloaded if missing; return a line.

    Raises UserError before writing, for other files than the pinned ones and for unsound rows.
    """
    found = {p: read_file(REPOSITORY, COMMIT, p, s, sources).decode("utf-8") for p, s in FILES.items()}
    routing = ROUTING.read_text(encoding="utf-8")
    tree, routes = yaml.safe_load(routing), read_routes(routing)
    stats: Stats = {"train": Counter(), "test": Counter()}
    parts = {name: read_rows(name, found[f"banking_data/{name}.csv"], routes) for name in stats}
    splits = choose(parts["test"], parts["train"], stats)
    rules = schema(routes, tree)
    check(splits, rules, routes)
    texts = {split: "".join(row.as_json() for row in splits[split]) for split in SPLITS}
    more = {"schema.json": json.dumps(rules, ensure_ascii=False, indent=1) + "\n", "routing.yaml": routing}
    attribution = ATTRIBUTION.format(repository=REPOSITORY, commit=COMMIT)
    folder = out / "support"
    write_folder(
        folder, texts, card(splits, stats, tree, routes), f"{attribution}\n\n{found['LICENSE'].strip()}\n", more
    )
    return f"{folder}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS) + " rows"
