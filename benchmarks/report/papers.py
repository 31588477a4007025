"""Compare the findings of papers in `papers.yaml` with records of a small model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from benchmarks.report.claims import AGAINST, FOR, OPEN, Verdict, by_families, judge, paired_finding
from benchmarks.report.frame import Records
from benchmarks.report.tables import read_config
from softprompts.evaluation.ensemble import CHOSEN, SINGLE, VOTE
from softprompts.metrics.significance import LEVEL, Comparison, holm
from softprompts.reports.pages.tables import markdown, probability, signed
from softprompts.runs.record import Result

from pandas import DataFrame
from scipy.stats import ttest_ind

AGREES, DIFFERS, UNDECIDED, NO_GAIN = "we agree", "we do not", "no difference is shown", "no gain is shown"


@dataclass(frozen=True)
class Expected:
    """A paper's finding: each of `better` scores above each of `worse`, or gains little over it if not `apart`."""

    statement: str
    better: Sequence[str] = ()
    worse: Sequence[str] = ()
    apart: bool = True

    def held_against(self, verdict: Verdict) -> str:
        """Return a short text about agreement."""
        if verdict.word is None:
            return "records are missing"
        if self.apart:
            return {FOR: AGREES, AGAINST: DIFFERS, OPEN: UNDECIDED}[verdict.word]
        # No shown gain does not prove that it is small, because few rows and seeds show few gains.
        return DIFFERS if FOR in set(verdict.findings["verdict"]) else NO_GAIN


@dataclass(frozen=True)
class Experiment:
    """An experiment of a paper, with its findings."""

    name: str
    question: str
    source: str
    findings: tuple[Expected, ...]


@dataclass(frozen=True)
class Answer:
    """The verdicts of the records on each finding of an experiment."""

    experiment: Experiment
    verdicts: tuple[Verdict, ...]

    def table(self) -> DataFrame:
        """Return a row per comparison: the finding, the agreement, and the numbers."""
        rows: list[dict[str, Any]] = []
        for expected, verdict in zip(self.experiment.findings, self.verdicts, strict=True):
            said = {"finding of the paper": expected.statement, "here": expected.held_against(verdict)}
            found = verdict.findings.drop(columns="verdict", errors="ignore").to_dict("records")
            rows += [{**said, **comparison} for comparison in found or [{"measure": "; ".join(verdict.missing)}]]
        return DataFrame(rows).fillna("")


def load_experiments() -> dict[str, Any]:
    """Return the experiments: a list of `grids`, and those with a separate record by their names."""
    said = read_config("papers")
    grids = [_experiment(values) for values in said.pop("grids")]
    return {"grids": grids, **{key: _experiment(values) for key, values in said.items()}}


def _experiment(values: Mapping[str, Any]) -> Experiment:
    return Experiment(**{**values, "findings": tuple(Expected(**finding) for finding in values["findings"])})


def answers(records: Records, experiments: Sequence[Experiment]) -> list[Answer]:
    """Compare every experiment whose grid has records with its paper's findings, by the grid's first metric.

    p is adjusted for all findings of an experiment.
    """
    found = []
    for e in experiments:
        if e.name in records.benchmarks:
            metric = records.metrics(e.name)[:1]
            planned = [(x.better, x.worse) for x in e.findings]
            found.append(Answer(e, tuple(by_families(records, e.name, metric, planned))))
    return found


def of_ensemble(experiment: Experiment, result: Result) -> Answer:
    """Compare a vote with its members, by the task's first metric, from the record of the ensemble."""
    metric, notes = next(iter(result.metrics)), result.notes
    values = {VOTE: result.metrics[metric].value}
    values |= {SINGLE: notes["mean"][metric]["value"], CHOSEN: notes["chosen"]["metrics"][metric]["value"]}
    made = {(c["first"], c["second"]): Comparison(**c) for c in notes["comparisons"] if c["metric"] == metric}
    planned = [(expected.better[0], expected.worse[0]) for expected in experiment.findings]
    adjusted = holm([made[pair].p if pair in made else 1.0 for pair in planned])
    verdicts = []
    for pair, p in zip(planned, adjusted, strict=True):
        missing = [] if pair in made else [f"the comparison of {' with '.join(pair)}"]
        found = (
            [] if missing else [paired_finding(replace(made[pair], adjusted=p), {name: name for name in pair}, values)]
        )
        verdicts.append(judge(result.task, found, missing))
    return Answer(experiment, tuple(verdicts))


def of_neighbours(experiment: Experiment, record: Mapping[str, Any]) -> Answer:
    """Compare how near the neighbours are to each other, for learned tokens and for random vectors.

    The test is Welch's t-test over the virtual tokens. They are not independent, so p is rough.
    """
    learned, chance = clusters(record["learned"]), clusters(record["random"])
    test = ttest_ind(learned, chance, equal_var=False)
    interval = test.confidence_interval(0.95)
    difference = mean(learned) - mean(chance)
    word = OPEN
    if test.pvalue < LEVEL:
        word = FOR if difference > 0 else AGAINST
    nearest = mean(one["similarities"][0] for one in record["learned"])
    finding = {
        "who": "learned tokens",
        "measure": f"mean cosine, from the vocabulary's mean, between the {record['k']} nearest words "
        f"(the nearest has a plain cosine of {nearest:.2f})",
        "method": f"{len(learned)} learned tokens: {mean(learned):.2f}",
        "against": f"random vectors: {mean(chance):.2f}",
        "difference": f"{difference:+.2f}",
        "95 % interval": f"{interval.low:+.2f} to {interval.high:+.2f}",
        "adjusted p": f"{probability(float(test.pvalue))} (not adjusted)",
    }
    said = {key: signed(value) for key, value in finding.items()}
    return Answer(experiment, (judge("sentiment", [{**said, "verdict": word, "margin": difference}]),))


def clusters(found: Sequence[dict[str, Any]]) -> list[float]:
    """Return the mean similarity between the nearest words of each token."""
    return [float(one["cluster"]) for one in found]


def papers_markdown(found: Sequence[Answer]) -> str:
    """Return a section per experiment as Markdown, or a remark that no grid is recorded."""
    lines = ["# The papers' experiments, on a small model"]
    for a in found:
        e = a.experiment
        lines += [f"## {e.name}", f"{e.question} {e.source}:", markdown(a.table())]
    return "\n\n".join(lines if found else [*lines, "No grid of them is recorded."]) + "\n"
