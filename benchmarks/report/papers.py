"""The papers' experiments: what each found, and whether the records of its grid, on a small model, agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report.evidence import Records, Verdict, by_comparisons
from benchmarks.report.html import text
from benchmarks.report.tables import Table, markdown, metrics_of

LESTER = "Lester et al. (2021)"
LI = "Li and Liang (2021)"


@dataclass(frozen=True)
class Finding:
    """What a paper found: each of `better` scores above each of `worse`; or gains little over it, if not `apart`."""

    statement: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    apart: bool = True


@dataclass(frozen=True)
class Experiment:
    """An experiment of a paper, and the findings that the grid of the same name can be held against."""

    grid: str
    question: str
    source: str
    findings: tuple[Finding, ...]


def _examples(better: str, worse: str) -> tuple[Finding, ...]:
    said = "With {} examples a prefix scores above full fine-tuning."
    return tuple(Finding(said.format(n), (f"{better}_{n}",), (f"{worse}_{n}",)) for n in (50, 100, 200, 500))


EXPERIMENTS = (
    Experiment(
        "lester_length",
        "How long should a soft prompt be?",
        f"{LESTER}, section 3.2",
        (
            Finding("A single token falls behind longer prompts.", ("length_20",), ("length_1",)),
            Finding("More than 20 tokens gain little.", ("length_50", "length_100"), ("length_20",), apart=False),
        ),
    ),
    Experiment(
        "lester_init",
        "What should a soft prompt begin with?",
        f"{LESTER}, section 3.2",
        (
            Finding("Class labels and frequent tokens beat uniform values.", ("labels", "frequent"), ("uniform",)),
            Finding("Class labels beat frequent tokens.", ("labels",), ("frequent",)),
        ),
    ),
    Experiment(
        "li_length",
        "How long should a prefix be?",
        f"{LI}, section 7.1",
        (
            Finding("Scores rise with length, up to a threshold.", ("length_20",), ("length_1",)),
            Finding("Beyond the threshold they do not.", ("length_50", "length_100"), ("length_20",), apart=False),
        ),
    ),
    Experiment(
        "li_init",
        "What should a prefix begin with?",
        f"{LI}, section 7.4",
        (Finding("Keys and values of real words beat random values.", ("text",), ("random",)),),
    ),
    Experiment("li_low_data", "What learns from few examples?", f"{LI}, section 6.3", _examples("prefix", "full")),
    Experiment(
        "li_placement",
        "Virtual tokens below the first layer, or keys and values at every layer?",
        f"{LI}, section 7.2",
        tuple(
            Finding(f"At length {n} every layer beats embeddings alone.", (f"layers_{n}",), (f"embeddings_{n}",))
            for n in (1, 20)
        ),
    ),
    Experiment(
        "scale",
        "Does prompt tuning catch up with full fine-tuning as the model grows?",
        f"{LESTER}, section 3.1",
        (
            Finding("Of a small model full fine-tuning scores higher.", ("full_135m",), ("prompt_135m",)),
            Finding("Of a larger one it gains little.", ("full_1700m",), ("prompt_1700m",), apart=False),
        ),
    ),
)
GRIDS = tuple(experiment.grid for experiment in EXPERIMENTS)
AGREES, DIFFERS, OPEN, NO_GAIN = "we agree", "we do not", "no difference is shown", "no gain is shown"


@dataclass(frozen=True)
class Answer:
    """An experiment, and for each of its findings a word of agreement (None where records miss) and the reason."""

    experiment: Experiment
    verdicts: tuple[tuple[Finding, str | None, str], ...]


def answers(records: Records) -> list[Answer]:
    """Hold every experiment whose grid has records against what its paper found."""
    found = []
    for experiment in EXPERIMENTS:
        if benchmark := records.benchmarks.get(experiment.grid):
            metric = metrics_of(benchmark)[:1]
            verdicts = [
                (f, *agreement(f, by_comparisons(records, experiment.grid, metric, f.better, f.worse)))
                for f in experiment.findings
            ]
            found.append(Answer(experiment, tuple(verdicts)))
    return found


def agreement(finding: Finding, verdict: Verdict) -> tuple[str | None, str]:
    """Return a word of agreement with a finding, None where records miss, and the reason."""
    if verdict.word is None:
        return None, verdict.sentence
    shown = [f for f in verdict.findings if f.word == "holds"]
    if finding.apart:
        words = {"holds": AGREES, "does not hold": DIFFERS, "no difference shown": OPEN}
        return words[verdict.word], "; ".join(f.sentence for f in verdict.findings)
    # That none is shown does not prove that there is little: few rows and seeds show few gains.
    return (DIFFERS if shown else NO_GAIN), "; ".join(f.sentence for f in shown or verdict.findings)


def paragraph(answer: Answer) -> str:
    """Return what an experiment asks, what its paper found, and where the records agree."""
    said = [f"{answer.experiment.question} {answer.experiment.source}:"]
    for finding, word, reason in answer.verdicts:
        said.append(f"{finding.statement} {f'Here {word}: {reason}.' if word else reason}")
    return " ".join(said)


def papers_markdown(found: Sequence[Answer]) -> str:
    """Return a paragraph an experiment as Markdown; where no grid is recorded it says so."""
    lines = ["# The papers' experiments, on a small model"]
    lines += [f"## {a.experiment.grid}\n\n{paragraph(a)}" for a in found] or ["No grid of them is recorded."]
    return "\n\n".join(lines) + "\n"


def papers_table(found: Sequence[Answer], figures: Mapping[str, Sequence[str]]) -> str:
    """Return a row a finding as Markdown, each experiment with a link to its figure, for the README."""
    rows = []
    for answer in found:
        grid, source = answer.experiment.grid, answer.experiment.source
        name = f"[{grid}]({figures[grid][0]})" if figures.get(grid) else grid
        for finding, word, reason in answer.verdicts:
            said = f"{source}: {finding.statement}"
            rows.append((name, said, word, reason) if word else (name, said, "records are missing", ""))
    return markdown(Table(("experiment", "finding of the paper", "here", "by"), tuple(rows)))


def paragraph_html(found: Sequence[Answer], grid: str) -> str:
    """Return the paragraph of a grid for its section of a page; empty for a grid of no paper."""
    return "".join(f"<p>{text(paragraph(a))}</p>" for a in found if a.experiment.grid == grid)
