"""Judge the claims of `claims.yaml` by the records of the three tasks.

A verdict follows only from records. If one is missing, the verdict only names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.grid.settings import Cell
from benchmarks.report.frame import Records, kind_of
from benchmarks.report.tables import TASKS, read_config
from softprompts.methods.catalog import METHODS
from softprompts.metrics.significance import LEVEL, Comparison, holm
from softprompts.reports.pages.frame import by_method, gaps, numbers, recorded, seeds_in_words
from softprompts.reports.pages.tables import (
    Measure,
    is_shown,
    markdown,
    measures_table,
    metric,
    percent,
    points,
    probability,
)

from pandas import DataFrame

# A grid has one task, so multitask prompt tuning is in none.
SOFT = tuple(m.name for m in METHODS.values() if m.what == "soft" and m.name != "multitask_prompt_tuning")
WEIGHTS = tuple(m.name for m in METHODS.values() if m.what == "weights")
SILENT = "no verdict"  # if records are missing
AGAINST, OPEN, FOR = WORDS = ("does not hold", "no difference shown", "holds")  # the least flattering first


@dataclass(frozen=True)
class Verdict:
    """The verdict of a task's records on a claim. If records are `missing`, it has neither words nor findings.

    words: the word for each method of the claim, by its label, in the order of the claim.
    findings: a row of text per comparison, the least flattering first.
    """

    task: str
    words: Mapping[str, str]
    findings: DataFrame
    missing: tuple[str, ...] = ()

    @property
    def word(self) -> str | None:
        """The least flattering word; None if records are missing."""
        return min(self.words.values(), key=WORDS.index, default=None)

    def __str__(self) -> str:
        """The text that a reader sees first: the word for each method."""
        if not self.words:
            return f"{SILENT}; missing: {'; '.join(self.missing)}"
        return "; ".join(f"{method}: {word}" for method, word in self.words.items())


@dataclass(frozen=True)
class Claim:
    """A statement, and the verdict of each task on it."""

    statement: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Section:
    """Claims on one subject, and the tables of their measures, each with its caption."""

    title: str
    claims: tuple[Claim, ...]
    tables: tuple[tuple[str, DataFrame], ...]


def rule() -> str:
    """Return the text that explains how claims are judged."""
    return str(read_config("claims")["rule"]).format(level=LEVEL)


def make_card(records: Records) -> list[Section]:
    """Return the sections of the card, from the benchmark that represents each task."""
    sections = []
    for section in load_card():
        claims = (
            Claim(c["statement"], tuple(_judged(records, records.main(task), c) for task in c["tasks"]))
            for c in section["claims"]
        )
        tables = (
            (f"{name}, {shown['caption']}", _table(records, name, shown))
            for shown in section["tables"]
            for name in map(records.main, shown["tasks"])
            if name in records.benchmarks
        )
        sections.append(Section(section["title"], tuple(claims), tuple(tables)))
    return sections


def load_card() -> list[dict[str, Any]]:
    """Return the sections of `claims.yaml`, with the names of groups and measures replaced by their contents."""
    card = read_config("claims")
    groups = {"soft": SOFT, "weights": WEIGHTS, **card["groups"]}
    known = {key: Measure(**values) for key, values in card["measures"].items()}

    def members(name: str) -> list[str]:
        return [m for part in groups[name] for m in members(part)] if name in groups else [name]

    for said in (said for section in card["sections"] for said in section["claims"] + section["tables"]):
        said.setdefault("tasks", TASKS)
        said["measures"] = [known[key] for key in said.get("measures", ())]
        for methods in {"better", "worse", "methods"} & said.keys():
            said[methods] = members(said[methods])
    return card["sections"]


def _judged(records: Records, task: str, claim: Mapping[str, Any]) -> Verdict:
    if claim.get("unchanged"):
        return detached(records, task, claim["better"])
    pairs = claim["better"], claim["worse"]
    if "scores" in claim:
        return by_families(records, task, claim["scores"], [pairs])[0]
    measures = _measures(records, task, claim)
    return (by_rows if measures[0].rows else by_seeds)(records, task, measures, *pairs)


def _table(records: Records, task: str, shown: Mapping[str, Any]) -> DataFrame:
    runs = records.of(task)
    if "methods" in shown:
        runs = runs[runs.index.isin(shown["methods"], level="method")]
    return measures_table(runs, [*map(metric, shown.get("scores", ())), *_measures(records, task, shown)])


def _measures(records: Records, task: str, said: Mapping[str, Any]) -> list[Measure]:
    """Return measures. A measure that represents several is kept, as a missing one, if the task has none of them."""
    several = {"other_tasks": other_tasks, "transfer": transfers} if task in records.benchmarks else {}
    expanded = [(m, several[m.column](records, task) if m.column in several else []) for m in said["measures"]]
    return [one for measure, found in expanded for one in found or [measure]]


def other_tasks(records: Records, task: str) -> list[Measure]:
    """Return the change of the score on each other task on which attached runs of a task were scored."""
    cells = [c for runs in records.benchmarks[task].cells.values() for c in runs.values()]
    probed = [cell.probes.get("forgetting", {}).get("tasks", {}) for cell in cells]
    kinds = {name: measured["metric"] for tasks in probed for name, measured in tasks.items()}
    shown = {True: ("signed", " nats per token"), False: ("points", " points")}
    return [
        Measure(
            f"change of {kind} on {name}, attached",
            f"attached.{name}",
            *shown[kind == "loss"],
            kind == "loss",
            rows=True,
        )
        for name, kind in kinds.items()
    ]


def transfer_metric(records: Records, name: str) -> str | None:
    """Return the metric for rows of other kinds: slot F1 if the task reports it, else its main metric.

    Far from the training rows, whole commands are almost never right, so they do not separate methods.
    """
    metrics = records.metrics(name)
    return "slot_f1" if "slot_f1" in metrics else next(iter(metrics), None)


def transfers(records: Records, name: str) -> list[Measure]:
    """Return `transfer_metric` on each kind of rows that a grid scores without training on it."""
    judged = transfer_metric(records, name)
    kinds = [kind_of(where) for where in records.benchmarks[name].grid.get("transfer", [])] if judged else []
    return [
        Measure(f"{judged} on {kind}", f"transfer.{kind}.{judged}", "percent", " %", less=False, rows=True)
        for kind in kinds
    ]


def judge(task: str, findings: Sequence[Mapping[str, Any]], missing: Sequence[str] = ()) -> Verdict:
    """Return the verdict on a claim for each method.

    A claim does not hold for a method if one finding is against it; it holds if all findings are for it. If a record is
    missing, there is no verdict.

    Args:
        task: task of the findings.
        findings: each with `who`, the label of the claim's method; a `verdict`; a `margin` that is larger the more it
            supports the claim; and text.
        missing: the missing records.
    """
    if missing:
        return Verdict(task, {}, DataFrame(), tuple(missing))
    words: dict[str, str] = {}
    for f in findings:
        words[f["who"]] = min(words.get(f["who"], FOR), f["verdict"], key=WORDS.index)
    ranked = sorted(findings, key=lambda f: (WORDS.index(f["verdict"]), f["margin"]))
    return Verdict(task, words, DataFrame(ranked).drop(columns=["who", "margin"]))


def missing_runs(records: Records, task: str, methods: Sequence[str], measures: Sequence[Measure] = ()) -> list[str]:
    """Return the gaps in a task's records: the benchmark, methods, runs, or numbers of runs."""
    if task not in records.benchmarks:
        return [f"every record of {task}"]
    runs = by_method(records.of(task))
    present = [m for m in methods if m in runs]
    absent = [f"{m.replace('_', ' ')} (not in the grid)" for m in methods if m not in present]
    absent += [gap for method in present for gap in gaps(runs[method])]
    for method in present:
        own = recorded(runs[method])
        for measure in measures:
            lacking = own.index.difference(numbers(own, measure.column).index)
            if len(lacking):
                seeds = seeds_in_words([seed for _, seed in lacking])
                absent.append(f"{measure.name} of {records.label(task, method)}, {seeds}")
    return absent


def by_families(
    records: Records, task: str, metrics: Sequence[str], planned: Sequence[tuple[Sequence[str], Sequence[str]]]
) -> list[Verdict]:
    """Judge each of `planned`, pairs of better and worse methods, with p adjusted for all comparisons together.

    Those without a record count as well: otherwise p would be smaller until they are recorded.
    """
    families = [_pairs(records, task, metrics, better, worse) for better, worse in planned]
    known = [compared.p for found, _ in families for compared, _, _ in found]
    lacking = sum(len(metrics) * len(better) * len(worse) for better, worse in planned) - len(known)
    p_values = iter(holm([*known, *[1.0] * lacking]))
    return [
        judge(task, [paired_finding(replace(c, adjusted=next(p_values)), named, x) for c, named, x in found], missing)
        for found, missing in families
    ]


# A comparison, the labels of its two methods, and the mean of each.
Pair = tuple[Comparison, dict[str, str], dict[str, float]]


def _pairs(
    records: Records, task: str, metrics: Sequence[str], better: Sequence[str], worse: Sequence[str]
) -> tuple[list[Pair], list[str]]:
    """Return the comparisons by each metric of each of `better` with each of `worse`, and the missing records."""
    missing = missing_runs(records, task, [*better, *worse])
    found: list[Pair] = []
    for name, first, second in [(n, b, w) for n in metrics for b in better for w in worse] if not missing else ():
        compared, pair = records.compared(task, name, first, second), records.of(task).loc[[first, second]]
        values = numbers(pair, f"metric.{name}")
        labels = {m: records.label(task, m) for m in (first, second)}
        if compared is None or len(values) < len(pair):
            missing.append(f"a paired comparison of {labels[first]} with {labels[second]} by {name}")
        else:
            found.append((compared, labels, values.groupby(level="method").mean().to_dict()))
    return found, missing


def paired_finding(
    comparison: Comparison, labels: Mapping[str, str], values: Mapping[str, float]
) -> dict[str, str | float]:
    """Return a paired comparison's finding on the claim that its first method is higher. `values`: both numbers."""
    c = comparison
    word = OPEN
    if is_shown(c):
        word = FOR if c.difference > 0 else AGAINST
    return {
        "who": labels[c.first],
        "measure": c.metric,
        "method": f"{labels[c.first]}: {percent(values[c.first])} %",
        "against": f"{labels[c.second]}: {percent(values[c.second])} %",
        "difference": f"{points(c.difference)} points",
        "95 % interval": f"{points(c.low)} to {points(c.high)}",
        "adjusted p": probability(c.adjusted),
        "verdict": word,
        "margin": c.difference,
    }


def by_rows(
    records: Records, task: str, measures: Sequence[Measure], better: Sequence[str], worse: Sequence[str]
) -> Verdict:
    """Judge by numbers of probes, whose rows and seeds are drawn; p is adjusted for all comparisons together."""
    missing = missing_runs(records, task, [*better, *worse], measures)
    pairs = [(measure, b, w) for measure in measures for b in better for w in worse] if not missing else []
    compared = [(measure, records.compared(task, measure.column, b, w)) for measure, b, w in pairs]
    missing += dict.fromkeys(f"the numbers of each row for: {measure.name}" for measure, c in compared if c is None)
    if missing:
        return judge(task, [], missing)
    found = [(measure, c) for measure, c in compared if c is not None]
    runs, adjusted = by_method(records.of(task)), holm([c.p for _, c in found])
    return judge(task, [_by_rows(m, replace(c, adjusted=p), runs) for (m, c), p in zip(found, adjusted, strict=True)])


def _by_rows(measure: Measure, compared: Comparison, runs: Mapping[str, DataFrame]) -> dict[str, str | float]:
    c, both = compared, {method: runs[method] for method in (compared.first, compared.second)}
    labels = {method: str(own["label"].iloc[0]) for method, own in both.items()}
    found = paired_finding(c, labels, {m: numbers(own, measure.column).mean() for m, own in both.items()})
    shown = {method: f"{labels[method]}: {measure.between(own)}" for method, own in both.items()}
    ends = (-c.difference, -c.high, -c.low) if measure.less else (c.difference, c.low, c.high)
    # A difference of shares is in points.
    difference, low, high = map(points if measure.show in ("percent", "points") else measure.of, ends)
    unit = " points" if measure.show in ("percent", "points") else measure.unit
    return found | {
        "measure": measure.name,
        "method": shown[c.first],
        "against": shown[c.second],
        "difference": f"{difference}{unit}",
        "95 % interval": f"{low} to {high}",
    }


def by_seeds(
    records: Records, task: str, measures: Sequence[Measure], better: Sequence[str], worse: Sequence[str]
) -> Verdict:
    """Judge by measured numbers: every seed of `better` must be better than every seed of `worse`."""
    missing = missing_runs(records, task, [*better, *worse], measures)
    missing += [] if missing else unlike_machines(records, task, measures, [*better, *worse])
    if missing:
        return judge(task, [], missing)
    runs = by_method(records.of(task))
    pairs = [(measure, [runs[first], runs[second]]) for measure in measures for first in better for second in worse]
    return judge(task, [_by_seeds(measure, both) for measure, both in pairs])


def unlike_machines(records: Records, task: str, measures: Sequence[Measure], methods: Sequence[str]) -> list[str]:
    """Return a line for each measured number whose runs were made on machines that cannot be compared by it."""
    cells = [cell for method in methods for cell in records.benchmarks[task].cells[method].values()]
    found = []
    for measure in measures:
        kinds = sorted({machine_of(cell, measure.column) for cell in cells}) if not measure.exact else []
        if len(kinds) > 1:
            found.append(f"{measure.name} on one kind of machine, not on {' and '.join(kinds)}")
    return found


def machine_of(cell: Cell, column: str) -> str:
    """Return the kind of machine that a number of a run depends on.

    Times depend on the processor or graphics card and on the threads. Memory depends on where it is measured, and on
    the data type that the machine chose.
    """
    made = cell.probes["environment"] if column.startswith("latency.") else cell.result.environment
    hardware = made["hardware"]
    cards = ", ".join(hardware["gpus"])
    if column == "cost.peak_memory_gib":
        chosen = cell.result.settings["model"].get("dtype") == "auto"
        return f"{cards or 'a processor'}{' with ' + made['dtype'] if chosen else ''}"
    threads = hardware["threads"]
    return cards or f"{hardware['processor']} with {threads} {'thread' if threads == 1 else 'threads'}"


def _by_seeds(measure: Measure, both: Sequence[DataFrame]) -> dict[str, str | float]:
    ours, theirs = (numbers(own, measure.column) for own in both)
    lower, higher = ours.max() < theirs.min(), ours.min() > theirs.max()
    word = OPEN
    if not measure.exact and min(len(ours), len(theirs)) == 1:
        remark = "one seed shows no difference"
    elif lower or higher:
        word = FOR if lower == measure.less else AGAINST
        remark = ("lower" if lower else "higher") + ("" if measure.exact else " in every seed")
    else:
        remark = "the same" if set(ours) == set(theirs) else "the seeds overlap"
    method, against = (f"{own['label'].iloc[0]}: {measure.between(own)}" for own in both)
    # Relative, so that measures with different units can be ranked.
    apart = (theirs.mean() - ours.mean()) / (abs(theirs.mean()) + abs(ours.mean()) or 1)
    margin = apart if measure.less else -apart
    said = {"who": both[0]["label"].iloc[0], "measure": measure.name, "method": method, "against": against}
    return {**said, "difference": remark, "verdict": word, "margin": margin}


def detached(records: Records, task: str, methods: Sequence[str]) -> Verdict:
    """Judge whether the base model's output is exactly as before after each method is detached.

    This needs the loss on general text and the scores on other tasks, before attaching and after detaching.
    """
    general = Measure("loss on general text, detached", "detached.general", "signed")
    missing = missing_runs(records, task, methods, [general])
    findings = []
    for method in methods if not missing else ():
        changes = records.of(task).loc[[method]].filter(like="detached.").stack().dropna().abs()
        largest = changes.max()
        change = "exactly zero" if largest == 0 else f"up to {largest:.3g}"
        label = records.label(task, method)
        said = {"who": label, "method": label, "change": change, "measurements": str(len(changes))}
        findings.append({**said, "verdict": FOR if largest == 0 else AGAINST, "margin": -largest})
    return judge(task, findings, missing)


def card_markdown(sections: Sequence[Section], notes: Sequence[str] = ()) -> str:
    """Return the card as Markdown.

    Args:
        sections: the sections of the card.
        notes: remarks on the records that a reader must know before any verdict.
    """
    lines = ["# Claims", rule(), *notes]
    for section in sections:
        lines.append(f"## {section.title}")
        for claim in section.claims:
            lines.append(f"### {claim.statement}")
            for verdict in claim.verdicts:
                lines.append(f"**{verdict.task}**: {verdict}.")
                lines += [markdown(verdict.findings)] if verdict.words else []
        lines += [f"{caption}:\n\n{markdown(shown)}" for caption, shown in section.tables]
    return "\n\n".join(lines) + "\n"


Word = tuple[str, str]  # a task, and the word for a method


def matrix(card: Sequence[Section]) -> tuple[list[str], list[tuple[Claim, dict[str, list[Word]]]]]:
    """Return all methods, and for each claim the words for each of its methods, by task."""
    claims = [claim for section in card for claim in section.claims]
    methods = list(dict.fromkeys(method for claim in claims for v in claim.verdicts for method in v.words))
    found = []
    for claim in claims:
        words = {m: words for m in methods if (words := _words_on(m, claim.verdicts))}
        # An empty row would look like a claim about no method.
        found.append((claim, words or {m: [(v.task, SILENT) for v in claim.verdicts] for m in methods}))
    return methods, found


def _words_on(method: str, verdicts: Sequence[Verdict]) -> list[Word]:
    if not any(method in v.words for v in verdicts):
        return []
    return [(v.task, v.words.get(method, SILENT)) for v in verdicts if method in v.words or not v.words]


def words_table(card: Sequence[Section]) -> DataFrame:
    """Return the card as a table: a row per claim, a column per method; empty if a claim does not cover a method."""
    methods, claims = matrix(card)
    rows = [{"claim": c.statement, **{m: _in_words(words) for m, words in found.items()}} for c, found in claims]
    return DataFrame(rows, columns=["claim", *methods]).fillna("")


def _in_words(words: Sequence[Word]) -> str:
    """Return "holds" if all tasks agree, or "holds (sentiment); no verdict (docstrings)"."""
    tasks: dict[str, list[str]] = {}
    for task, word in words:
        tasks.setdefault(word, []).append(task)
    if len(tasks) == 1:
        return next(iter(tasks))
    return "; ".join(f"{word} ({', '.join(names)})" for word, names in tasks.items())
