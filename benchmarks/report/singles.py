"""The papers' experiments that take no grid: a vote of several prompts, and what words a prompt lies near."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.report.evidence import judge, of_comparison
from benchmarks.report.papers import AGREES, DIFFERS, LESTER, OPEN, Answer, Experiment, Finding, agreement
from benchmarks.report.style import EDGE, FONT, STYLES, Drawing, finish, new_figure
from benchmarks.report.tables import ALPHA, probability
from benchmarks.report.variants import figure_of_rows
from softprompts.evaluation.ensemble import CHOSEN, SINGLE, VOTE
from softprompts.metrics.significance import Comparison
from softprompts.runs.record import Result, load_result

from matplotlib import rc_context
from scipy.stats import ttest_ind

TOGETHER = Experiment(
    "lester_ensemble",
    "Do soft prompts of one task answer better together?",
    f"{LESTER}, section 6",
    (
        Finding("A vote scores above the mean of its prompts.", (VOTE,), (SINGLE,)),
        Finding("It beats, or matches, the best of them.", (VOTE,), (CHOSEN,)),
    ),
)
WORDS = Experiment(
    "lester_neighbours",
    "What words does a soft prompt lie near?",
    f"{LESTER}, section 7",
    (Finding("The words nearest to a learned token are near each other, unlike those of random vectors.", (), ()),),
)


@dataclass(frozen=True)
class Single:
    """An experiment held against its paper, and its figure."""

    answer: Answer
    drawing: Drawing


def singles(ensemble: Path, neighbours: Path) -> list[Single]:
    """Return the experiments that have a record: of an ensemble's vote, of a prompt's neighbours."""
    found = []
    if ensemble.is_file():
        result = load_result(ensemble)
        found.append(Single(of_ensemble(result), draw_ensemble(result)))
    if neighbours.is_file():
        record = json.loads(neighbours.read_text(encoding="utf-8"))
        found.append(Single(of_neighbours(record), draw_neighbours(record)))
    return found


def of_ensemble(result: Result) -> Answer:
    """Hold a vote against its members, by the task's first metric, as the record of the ensemble compares them."""
    metric, notes = next(iter(result.metrics)), result.notes
    values = {VOTE: result.metrics[metric].value}
    values |= {SINGLE: notes["mean"][metric]["value"], CHOSEN: notes["chosen"]["metrics"][metric]["value"]}
    made = [Comparison(**c) for c in notes["comparisons"] if c["metric"] == metric]
    verdicts = []
    for finding in TOGETHER.findings:
        pair = (finding.better[0], finding.worse[0])
        found = [of_comparison(c, 1, str, values) for c in made if (c.first, c.second) == pair]
        verdicts.append((finding, *agreement(finding, judge(result.task, found, ()))))
    return Answer(TOGETHER, tuple(verdicts))


def draw_ensemble(result: Result) -> Drawing:
    """Return a figure of each prompt alone, their mean, the one chosen on validation, and the vote."""
    metric, notes = next(iter(result.metrics)), result.notes
    alone = [100 * member["metrics"][metric]["value"] for member in notes["members"]]
    rows = [
        (f"the {len(alone)} prompts", alone, "prompt_tuning"),
        ("their mean", [100 * notes["mean"][metric]["value"]], "few_shot"),
        (CHOSEN, [100 * notes["chosen"]["metrics"][metric]["value"]], "lora"),
        (VOTE, [100 * result.metrics[metric].value], "full_finetuning"),
    ]
    with rc_context(FONT):
        figure, axis = figure_of_rows([name for name, *_ in rows])
        for row, (_, values, style) in enumerate(rows):
            colour, marker = STYLES[style]
            axis.plot(values, [row] * len(values), marker, color=colour, **EDGE)
        axis.set_xlabel(f"{metric}, %")
        figure.tight_layout()
    said = f"{metric} on {result.metrics[metric].rows} test rows of {result.task}: each prompt alone, and all together."
    return Drawing(TOGETHER.grid, said, figure)


def of_neighbours(record: dict[str, Any]) -> Answer:
    """Hold the neighbours of learned tokens against those of random vectors: how near are they to each other?

    By Welch's t-test over the virtual tokens. Those of one prompt are not independent: a rough p.
    """
    learned, chance = _clusters(record["learned"]), _clusters(record["random"])
    test = ttest_ind(learned, chance, equal_var=False)
    interval = test.confidence_interval(0.95)
    difference = mean(learned) - mean(chance)
    word = OPEN
    if test.pvalue < ALPHA:
        word = AGREES if difference > 0 else DIFFERS
    nearest = mean(one["similarities"][0] for one in record["learned"])
    sentence = (
        f"mean cosine, from the vocabulary's mean, between the {record['k']} nearest words of {len(learned)} learned "
        f"tokens {mean(learned):.2f}, of random vectors {mean(chance):.2f}, {difference:+.2f} (95 % interval "
        f"{interval.low:+.2f} to {interval.high:+.2f}, p {probability(float(test.pvalue))}); the nearest word is at a "
        f"cosine of {nearest:.2f}"
    ).replace("-", "−")
    return Answer(WORDS, ((WORDS.findings[0], word, sentence),))


def _clusters(found: Sequence[dict[str, Any]]) -> list[float]:
    return [float(one["cluster"]) for one in found]


def draw_neighbours(record: dict[str, Any]) -> Drawing:
    """Return a figure with a mark a token: how near its nearest word is, and how near its words are to each other."""
    with rc_context(FONT):
        figure, axis = new_figure()
        for key, name, style in (
            ("learned", "learned tokens", "prompt_tuning"),
            ("random", "random vectors", "full_finetuning"),
        ):
            colour, marker = STYLES[style]
            near = [one["similarities"][0] for one in record[key]]
            axis.plot(near, _clusters(record[key]), marker, color=colour, **EDGE, label=name)
        axis.set_xlabel("cosine with the nearest word")
        axis.set_ylabel(f"cosine between {record['k']} nearest words")
        finish(figure, axis)
    said = (
        f"Each virtual token of a trained prompt, and as many random vectors: how near the nearest word of the "
        f"vocabulary is, and how near its {record['k']} nearest words are to each other."
    )
    return Drawing(WORDS.grid, said, figure)
