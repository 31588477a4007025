"""Find rows, near-duplicates, authors and times that several splits share, and rows that contradict each other."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import combinations
from typing import Any, NamedTuple

from softprompts.data.sources import SPLITS
from softprompts.data.values import NUMBER, Record, fields_of, moment_of, names_nobody, plain
from softprompts.data.without import normalised
from softprompts.errors import UserError, listed, nearest, short
from softprompts.readiness.findings import Finding, Status, percent, place_of, places, share
from softprompts.readiness.plan import Plan
from softprompts.tasks.task import Task

# Two texts are near-duplicates if the Jaccard similarity of their shingles is at least this (Lee et al. 2022,
# "Deduplicating Training Data Makes Language Models Better", section 4.2, use 0.8).
SIMILAR = 0.8
PROPOSED = 0.5  # MinHash proposes pairs from this similarity on; of pairs at 0.8, it misses one in 10,000
SHINGLE = 5  # characters: words are too coarse for texts of a single sentence
PERMUTATIONS = 128
SHORTEST = 20  # characters; in shorter texts a single word makes the difference
REPEATED = 0.01  # share of a split that may be duplicates: copies from several sources are common and do little harm
LEAKED = 0.01  # share of scored rows that may be near-duplicates
EMPTY = 0.01  # share of a split's rows that may lack a time or an author, or have another value
LOOKED_AT = 200  # rows of train that show whether a column may hold times
_PERSONS = (
    "author|user|customer|client|patient|person|speaker|member|sender|employee|student|visitor|subscriber|contact|account"
    "|annotator|participant|respondent|writer|session"
)
# The whole name of a column, such as customer_id, userName or e-mail, but not customer_type.
PERSON = re.compile(
    rf"(.*[_ -])?({_PERSONS})s?[_ -]?(id|ids|name|no|nr|number|key|hash|uuid|e?-?mail)?|(.*_)?e-?mail|.+_by"
)
DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}(?!\d)")  # in any order
TIME = re.compile(r"(.*[_ -])?(time|date|datetime|timestamp|day|month|year|created|updated|sent|received|at|on|ts)")


def input_of(task: Task) -> Callable[[Record], str]:
    """Return a function that joins what the prompt shows of a record, without case, runs of spaces and Unicode forms.

    A field gives what the model reads: `{text:.40}` is cut, `{translation[en]}` has no other language. The words of
    the template are left out, because they would make all rows similar.
    """
    shown = _shown(task)
    return lambda record: normalised(" ".join(shown(record)))


def _shown(task: Task) -> Callable[[Record], list[str]]:
    """Return a function that gives the texts of the prompt's fields of a record, as the model reads them."""
    fields = fields_of(task.config.prompt)
    return lambda record: [field.text(record, "") for field in fields]


class Texts:
    """The inputs of all rows by split: (place, text, target).

    rows: with texts for comparison, as of `input_of`; exact: with texts as the model reads them.
    """

    def __init__(self, task: Task) -> None:
        """Read the rows once."""
        shown = _shown(task)
        self.rows: dict[str, list[tuple[str, str, str]]] = {}
        self.exact: dict[str, list[tuple[str, str, str]]] = {}
        for name, rows in task.splits.items():
            found = [(place_of(r), shown(r.record), r.target.strip()) for r in rows]
            self.rows[name] = [(place, normalised(" ".join(texts)), target) for place, texts, target in found]
            self.exact[name] = [(place, "\0".join(texts), target) for place, texts, target in found]


def overlap_findings(task: Task, raw: Task, plan: Plan) -> Iterator[Finding]:
    """Yield the findings on overlap between splits, and on contradictions.

    Args:
        task: the rows as a run reads them, maybe with masks.
        raw: the rows without masks, of which authors and times are compared.
        plan: the plan, with the columns of authors and times.

    Raises:
        UserError: the rows lack a column that the plan names.
    """
    texts = Texts(task)
    yield repeated(texts)
    yield across_splits(texts)
    yield near_duplicates(texts)
    yield conflicts(texts, task.choices is not None)
    yield by_author(raw, plan)
    yield by_time(raw, plan)


def repeated(texts: Texts) -> Finding:
    """Return the finding on rows that occur more than once in one split with the same target."""
    found = {split: where for split, rows in texts.rows.items() if (where := _repeats(rows))}
    shares = {split: share(len(where), len(texts.rows[split])) for split, where in found.items()}
    first = [place for where in found.values() for place in where][:3]
    facts = {"rows": {split: len(where) for split, where in found.items()}, "shares": shares, "first": first}
    title = "Duplicates within a split"
    if not found:
        return Finding("duplicates", title, "green", "No row occurs twice in a split.", "", facts)
    said = " ".join(
        f"Rows of {split} that repeat another: {len(where):,} ({percent(shares[split])}), {places(where)}."
        for split, where in found.items()
    )
    if max(shares.values()) <= REPEATED:
        return Finding("duplicates", title, "green", said, "", facts)
    remedy = "Remove the repeated rows: they count several times, in training or in the score."
    return Finding("duplicates", title, "amber", said, remedy, facts)


def _repeats(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return the places of rows whose input and target are those of an earlier row."""
    seen: set[tuple[str, str]] = set()
    found = []
    for place, text, target in rows:
        if (text, target) in seen:
            found.append(place)
        seen.add((text, target))
    return found


def _pairs_found(found: Sequence[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [{"split": split, "row": place, "also in": other} for split, place, other in found[:20]]


def across_splits(texts: Texts) -> Finding:
    """Return the finding on rows whose input is in several splits."""
    first: dict[str, tuple[str, str]] = {}
    found = []
    for split in SPLITS:
        for place, text, _ in texts.rows[split]:
            home, other = first.setdefault(text, (split, place))
            if home != split:
                found.append((split, place, other))
    title = "The same rows in several splits"
    facts = {"rows": len(found), "first": found[:3]}
    if not found:
        return Finding("leaked_rows", title, "green", "No input is in more than one split.", "", facts)
    counts = Counter(split for split, _, _ in found)
    said = f"Rows with an input of an earlier split: {_counted(counts)}."
    remedy = "Remove them from validation and test: the model may remember them, so the score would be too high."
    return Finding("leaked_rows", title, "red", said, remedy, facts, _pairs_found(found))


def _counted(counts: Mapping[str, int]) -> str:
    return listed(f"{count:,} of {split}" for split, count in counts.items())


def shingles(text: str) -> set[str]:
    """Return the runs of `SHINGLE` characters of a text, without punctuation and runs of spaces."""
    plain_text = " ".join(re.findall(r"\w+", text))
    return {plain_text[n : n + SHINGLE] for n in range(max(1, len(plain_text) - SHINGLE + 1))}


def near_duplicates(texts: Texts) -> Finding:
    """Return the finding on rows of validation and test that are nearly the same as a row of an earlier split.

    MinHash proposes pairs; their true similarity decides.
    """
    found = [(split, place, other, similarity) for place, (split, other, similarity) in _similar(texts).items()]
    title = "Nearly the same rows in several splits"
    counts = Counter(split for split, *_ in found)
    scored = [text for split in SPLITS[1:] for _, text, _ in texts.rows[split]]
    brief = sum(len(text) < SHORTEST for text in scored)
    shares = {split: share(count, len(texts.rows[split])) for split, count in counts.items()}
    facts = {"rows": dict(counts), "shares": shares, "similarity": SIMILAR, "first": [f[1:] for f in found[:3]]}
    facts |= {"not_compared": brief}
    skipped = f" Rows with fewer than {SHORTEST} characters were not compared: {brief:,}." if brief else ""
    if not found:
        said = f"No row of validation or test is nearly the same as a row of an earlier split (similarity {SIMILAR})."
        if brief <= len(scored) / 2:
            return Finding("near_duplicates", title, "green", f"{said}{skipped}", "", facts)
        remedy = "Look at some of them yourself: most texts are too short to be compared by their characters."
        return Finding("near_duplicates", title, "amber", f"{said}{skipped}", remedy, facts)
    said = f"Rows nearly the same as one of an earlier split: {_counted(counts)}.{skipped}"
    remedy = "Split by a property that the rows share, such as their source or template, or remove these rows."
    table = [
        {"split": split, "row": place, "like": other, "similarity": f"{similarity:.2f}"}
        for split, place, other, similarity in found[:20]
    ]
    status: Status = "red" if max(shares.values()) > LEAKED else "amber"
    return Finding("near_duplicates", title, status, said, remedy, facts, table)


def _similar(texts: Texts) -> dict[str, tuple[str, str, float]]:
    """Return, by the place of a row of validation or test, its split, the similar row, and the similarity."""
    from datasketch import MinHash, MinHashLSH  # not above: it comes with an extra

    index = MinHashLSH(threshold=PROPOSED, num_perm=PERMUTATIONS)
    known: list[tuple[str, str]] = []  # place and text
    numbers: dict[str, int] = {}
    found = {}
    for split in SPLITS:
        new = []
        for place, text, _ in texts.rows[split]:
            if len(text) < SHORTEST or (split == "train" and text in numbers):
                continue
            own = shingles(text)
            sketch = MinHash(num_perm=PERMUTATIONS)
            sketch.update_batch([piece.encode() for piece in own])
            if split != "train" and text not in numbers:  # `across_splits` reports equal texts
                candidates = [(number, _jaccard(own, shingles(known[number][1]))) for number in index.query(sketch)]
                if alike := [(s, -number) for number, s in candidates if s >= SIMILAR]:
                    similarity, number = max(alike)
                    found[place] = (split, known[-number][0], similarity)
            new.append((place, text, sketch))
        for place, text, sketch in new:
            if text not in numbers:
                numbers[text] = len(known)
                index.insert(len(known), sketch)
                known.append((place, text))
    return found


def _jaccard(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)


def conflicts(texts: Texts, choices: bool) -> Finding:
    """Return the finding on equal inputs with different targets, and the best accuracy that is possible with them.

    A model can tell inputs apart that differ in case or spaces, so these limit no accuracy, and are not red.
    """
    first: dict[str, str] = {}
    rows = [row for split in SPLITS for row in texts.rows[split]]
    for place, text, _ in rows:
        first.setdefault(text, place)
    found = [text for text, counts in _targets(rows).items() if len(counts) > 1]
    wrong, exact = _lost(rows), _lost([row for split in SPLITS for row in texts.exact[split]])
    test = texts.exact["test"]
    ceiling = share(len(test) - _lost(test), len(test))
    facts = {"inputs": len(found), "rows": wrong, "share": share(wrong, len(rows)), "rows_of_exact_inputs": exact}
    facts["best_accuracy_on_test"] = ceiling
    title = "Rows that contradict each other" if choices else "Inputs with several answers"
    if not found:
        return Finding("conflicts", title, "green", "Equal inputs have equal targets.", "", facts)
    said = f"{len(found):,} inputs have several targets, {places([first[text] for text in found])}."
    if exact < wrong:
        which = "Some" if exact else "All"
        said += f" {which} of them differ only in case, spaces or forms of characters, which a model can tell apart."
    if not choices:
        remedy = "Check that each of these answers is right: a metric accepts only the row's own answer."
        return Finding("conflicts", title, "amber", said, remedy, facts)
    if ceiling < 1:
        said += f" No model can be right on more than {percent(ceiling)} of test."
    remedy = "Let two people label these rows again, and write down the rule that decides."
    status: Status = "red" if share(exact, len(rows)) > LEAKED else "amber"
    return Finding("conflicts", title, status, said, remedy, facts)


def _targets(rows: Sequence[tuple[str, str, str]]) -> dict[str, Counter[str]]:
    """Return the targets of each input."""
    targets: dict[str, Counter[str]] = defaultdict(Counter)
    for _, text, target in rows:
        targets[text][target] += 1
    return targets


def _lost(rows: Sequence[tuple[str, str, str]]) -> int:
    """Return the number of rows that are wrong if each input has its most frequent target."""
    return sum(counts.total() - max(counts.values()) for counts in _targets(rows).values())


def _column(task: Task, plan: Plan, field: str, column: str) -> dict[str, list[tuple[str, Any]]]:
    """Return (place, value) of a column that the plan names, by split; rows without a value are left out.

    Raises:
        UserError: no row of a split has the column.
    """
    found = {}
    for split, rows in task.splits.items():
        there: dict[str, None] = {}
        values: list[tuple[str, Any]] = []
        has = False
        for row in rows:
            there |= dict.fromkeys(row.record)
            has = has or column in row.record
            if _items(value := row.record.get(column)):
                values.append((place_of(row), value))
        if not has:
            raise UserError(f'{plan.path}: {field}: {split} has no column "{short(column)}"{nearest(column, there)}')
        found[split] = values
    return found


def _not_named(key: str, title: str, field: str, what: str, columns: Sequence[str]) -> Finding:
    """Return the finding without a column in the plan: amber if columns look like it, otherwise unchecked."""
    said = f"Not checked: readiness.yaml names no {field}"
    facts = {"columns": list(columns)}
    if not columns:
        return Finding(key, title, "unchecked", f"{said}.", f"Name the column of the {what}, if there is one.", facts)
    said += f", but columns look like {what}s: {listed([short(name, 40) for name in columns])}."
    remedy = f"Name one of them as {field} in readiness.yaml, or accept this point with a reason."
    return Finding(key, title, "amber", said, remedy, facts)


def _columns_like(task: Task, looks: Callable[[str, Sequence[Any]], bool]) -> list[str]:
    """Return the columns of train, without those of the target, whose name and first values look like something."""
    target = {field.name.partition("[")[0] for field in fields_of(task.config.target)}
    rows = task.splits["train"]
    values: dict[str, list[Any]] = defaultdict(list)
    for row in rows[: min(LOOKED_AT, len(rows))]:
        for column, value in row.record.items():
            if column not in target and _items(value):
                values[column].append(value)
    return [column for column, found in values.items() if looks(_snake(column), found)]


def _snake(name: str) -> str:
    """Return a column's name with "_" between its words: "customerId" becomes "customer_id"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _like_person(name: str, values: Sequence[Any]) -> bool:
    return PERSON.fullmatch(name) is not None


def _like_time(name: str, values: Sequence[Any]) -> bool:
    """Return whether all values are dates, or numbers that may be times in a column whose name says so."""
    named = TIME.fullmatch(name) is not None
    texts = [str(plain(value)).strip() for value in values]
    return all(
        named and _moment(value) is not None if NUMBER.fullmatch(text) else DATE.match(text) or _moment(value)
        for value, text in zip(values, texts, strict=True)
    )


def by_author(task: Task, plan: Plan) -> Finding:
    """Return the finding on authors of scored rows who also occur in train."""
    title = "Authors in several splits"
    if plan.author_column is None:
        return _not_named("authors", title, "author_column", "author", _columns_like(task, _like_person))
    found = _column(task, plan, "author_column", plan.author_column)
    train = {name for _, value in found["train"] for name in _names(value)}
    leaked = {s: [p for p, value in found[s] if not train.isdisjoint(_names(value))] for s in SPLITS[1:]}
    rows = sum(map(len, leaked.values()))
    empty, gaps = _empty(task, found)
    facts = {"column": plan.author_column, "rows": {split: len(where) for split, where in leaked.items()}}
    facts |= {"empty": empty}
    if not rows:
        said = f"No {plan.author_column} of train is in another split.{gaps}"
        if not gaps:
            return Finding("authors", title, "green", said, "", facts)
        return Finding("authors", title, "amber", said, f"Fill {plan.author_column} in every row.", facts)
    first = [place for where in leaked.values() for place in where]
    said = f"{rows:,} rows of validation and test have a {plan.author_column} of train, {places(first)}.{gaps}"
    remedy = f"Split by {plan.author_column}: a model may learn how a person writes, and not the task."
    return Finding("authors", title, "red", said, remedy, facts)


def _items(value: Any) -> list[str]:
    """Return the texts in a value: several of a list, none of an empty value or of a word such as "n/a"."""
    if isinstance(value, list):
        return [text for item in value for text in _items(item)]
    if value is None or value != value:  # NaN and NaT are missing values
        return []
    whole = isinstance(value, float) and value.is_integer()  # a column of whole numbers with gaps is one of floats
    text = str(int(value) if whole else plain(value)).strip()
    return [] if names_nobody(text) else [text]


def _names(value: Any) -> set[str]:
    """Return authors' names for comparison: without case, runs of spaces and Unicode forms."""
    return {normalised(name) for name in _items(value)}


def _empty(task: Task, found: Mapping[str, Sequence[object]]) -> tuple[dict[str, int], str]:
    """Return the rows without a value by split, and a sentence if a split has more than `EMPTY` of them."""
    empty = {split: len(rows) - len(found[split]) for split, rows in task.splits.items()}
    many = [split for split, count in empty.items() if count > EMPTY * len(task.splits[split])]
    said = listed([f"{empty[split]:,} of {len(task.splits[split]):,} rows of {split}" for split in many])
    return empty, f" {said} have no value there, and were not compared." if many else ""


class Order(NamedTuple):
    """Rows of a split that are not earlier than the first row of a later split: their places.

    late: rows that are later; share: their share of the split; same: rows of the same time, whose order is unknown.
    """

    split: str
    later: str
    late: list[str]
    share: float
    same: list[str]

    def in_words(self) -> Iterator[str]:
        """Yield a sentence for each kind of rows."""
        first = f"the first row of {self.later}"
        if self.late:
            rows = f"{len(self.late):,} rows of {self.split} ({percent(self.share)})"
            yield f"{rows} are later than {first}, {places(self.late)}."
        if self.same:
            yield f"{len(self.same):,} rows of {self.split} have the time of {first}, {places(self.same)}."


def _orders(times: Mapping[str, Sequence[tuple[str, datetime]]]) -> Iterator[Order]:
    """Yield the order of each two splits."""
    for split, later in combinations(SPLITS, 2):
        begin = min(when for _, when in times[later])
        late = [place for place, when in times[split] if when > begin]
        same = [place for place, when in times[split] if when == begin]
        yield Order(split, later, late, share(len(late), len(times[split])), same)


def by_time(task: Task, plan: Plan) -> Finding:
    """Return the finding on rows of a split that are not earlier than the first row of a later split."""
    title, column = "Splits in time", plan.time_column
    if column is None:
        return _not_named("time", title, "time_column", "time", _columns_like(task, _like_time))
    found = _column(task, plan, "time_column", column)
    read = {split: [(place, _moment(value)) for place, value in rows] for split, rows in found.items()}
    times = {split: [(place, when) for place, when in rows if when] for split, rows in read.items()}
    wrong = {split: [place for place, when in rows if not when] for split, rows in read.items()}
    if empty := [split for split in SPLITS if not found[split]]:
        said = f"No row of {listed(empty)} has a value in the column {column}."
        return Finding("time", title, "amber", said, f"Fill {column} in every row.")
    if any(len(where) > EMPTY * len(task.splits[split]) or not times[split] for split, where in wrong.items()):
        said = f"{_not_times(column, wrong)} The order of the splits was not checked."
        return Finding("time", title, "red", said, READABLE, {"column": column, **_count(wrong)})
    empties, gaps = _empty(task, found)
    unread = sum(map(len, wrong.values()))
    if unread:
        gaps += f" {_not_times(column, wrong)} They were not compared."
    begins = {split: min(when for _, when in rows) for split, rows in times.items()}
    facts = {"column": column, "begins": {split: begin.isoformat() for split, begin in begins.items()}}
    facts |= {"empty": empties, **_count(wrong)}
    return _order_finding(title, column, list(_orders(times)), begins, gaps, READABLE if unread else "", facts)


READABLE = (
    "Write times as 2026-05-31 or 2026-05-31T12:30. Dates such as 05/06/2026 and 05.06.2026 are not read: the first "
    "number may be the day or the month."
)


def _count(wrong: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {"not_times": {split: len(where) for split, where in wrong.items()}}


def _not_times(column: str, wrong: Mapping[str, Sequence[str]]) -> str:
    first = [place for where in wrong.values() for place in where]
    return f"Values of {column} that are no times: {len(first):,}, {places(first)}."


def _order_finding(
    title: str,
    column: str,
    orders: Sequence[Order],
    begins: Mapping[str, datetime],
    gaps: str,
    readable: str,
    facts: dict[str, Any],
) -> Finding:
    """Return the finding on the order of splits, of which some rows may lack a time."""
    facts["order"] = [one._asdict() | {"late": len(one.late), "same": len(one.same)} for one in orders]
    remedies = []
    if any(one.late for one in orders):
        remedies.append("Split by time: in use, a model reads texts that are later than all its training rows.")
    if any(one.same for one in orders):
        remedies.append(f"Give the time of day in {column}, or keep all rows of one time in one split.")
    if not remedies:
        days = {split: f"{begin:%Y-%m-%d}" for split, begin in begins.items()}
        said = f"Train ends before validation begins ({days['validation']}), and that before test ({days['test']})."
        if not gaps:
            return Finding("time", title, "green", said, "", facts)
        return Finding("time", title, "amber", said + gaps, readable or f"Fill {column} in every row.", facts)
    said = " ".join(text for one in orders for text in one.in_words()) + gaps
    leaked = any(one.later == "test" and one.share > LEAKED for one in orders)
    remedy = " ".join([*remedies, readable]).strip()
    return Finding("time", title, "red" if leaked else "amber", said, remedy, facts)


def _moment(value: Any) -> datetime | None:
    """Return a point in time; None for a value that is none."""
    try:
        return moment_of(value)
    except (ValueError, OverflowError, OSError, TypeError):
        return None
