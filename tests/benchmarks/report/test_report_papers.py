"""The papers' experiments: each kind of agreement, missing records, and grids that exist."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.report.figures import draw_ensemble, draw_neighbours
from benchmarks.report.frame import make_records
from benchmarks.report.papers import (
    Answer,
    Expected,
    Experiment,
    answers,
    load_experiments,
    of_ensemble,
    of_neighbours,
    papers_markdown,
)
from helpers import ROOT
from made_benchmark import make_benchmark
from made_result import make_result
from softprompts.evaluation.ensemble import CHOSEN, SINGLE, VOTE
from softprompts.metrics.scoring import Interval
from softprompts.metrics.significance import Comparison
from softprompts.reports.pages.style import close
from softprompts.runs.record import Result

import pytest
import yaml

APART = Expected("Prompts beat LoRA.", ("prompt_tuning",), ("lora",))
ALIKE = Expected("Prefixes gain little over prompts.", ("prefix_tuning",), ("prompt_tuning",), apart=False)
EXPERIMENTS = load_experiments()


def answer(folder: Path, expected: Expected, difference: float = 0.1, p: float = 0.001, **changes: Any) -> Answer:
    pair = (expected.better[0], expected.worse[0])
    comparison = Comparison(*pair, "accuracy", difference, -0.2, 0.2, p, p, 4, (3, 3))
    records = make_records([make_benchmark(folder, **changes)], {"sentiment": [comparison]})
    (found,) = answers(
        records, [Experiment("sentiment", "Which is better?", "Somebody (2021), section 1", (expected,))]
    )
    return found


@pytest.mark.parametrize(
    ("expected", "difference", "p", "word"),
    [
        (APART, 0.1, 0.001, "we agree"),
        (APART, -0.1, 0.001, "we do not"),
        (APART, 0.1, 0.5, "no difference is shown"),
        (ALIKE, 0.1, 0.001, "we do not"),  # a gain is shown
        (ALIKE, 0.1, 0.5, "no gain is shown"),
        (ALIKE, -0.1, 0.001, "no gain is shown"),
    ],
)
def test_agreement(tmp_path: Path, expected: Expected, difference: float, p: float, word: str) -> None:
    (row,) = answer(tmp_path, expected, difference, p).table().to_dict("records")
    assert (row["finding of the paper"], row["here"], row["measure"]) == (expected.statement, word, "accuracy")
    assert row["difference"] == f"{100 * difference:+.1f} points".replace("-", "−")


def test_the_page_has_a_row_for_each_comparison(tmp_path: Path) -> None:
    page = papers_markdown([answer(tmp_path, APART)])
    assert page.splitlines()[-1] == (
        "| Prompts beat LoRA. | we agree | accuracy | prompt tuning: 70.0 % | LoRA: 80.0 % | +10.0 points | "
        "−20.0 to +20.0 | 0.001 |"
    )
    assert "## sentiment\n\nWhich is better? Somebody (2021), section 1:\n\n| finding" in page


def test_a_missing_run_leaves_the_question_open(tmp_path: Path) -> None:
    found = [answer(tmp_path, APART, without=["lora/seed2"])]
    row = papers_markdown(found).splitlines()[-1]
    assert row.endswith("Prompts beat LoRA. | records are missing | LoRA, seed 2 (no record) |")
    assert answers(make_records([], {}), EXPERIMENTS["grids"]) == []
    assert "No grid of them is recorded." in papers_markdown([])


def test_p_is_adjusted_for_the_planned_findings_and_not_only_for_the_recorded_ones(tmp_path: Path) -> None:
    compared = Comparison("prompt_tuning", "lora", "accuracy", 0.1, -0.2, 0.2, 0.03, 0.03, 4, (3, 3))
    records = make_records([make_benchmark(tmp_path)], {"sentiment": [compared]})
    both = (APART, Expected("Prompts beat an absent method.", ("prompt_tuning",), ("absent",)))
    (found,) = answers(records, [Experiment("sentiment", "Which is better?", "Somebody (2021), section 1", both)])
    assert [row["here"] for row in found.table().to_dict("records")] == [
        "no difference is shown",
        "records are missing",
    ]
    assert found.table()["adjusted p"][0] == "0.060"


@pytest.mark.parametrize("experiment", EXPERIMENTS["grids"], ids=lambda e: e.name)
def test_findings_name_methods_of_their_grid(experiment: Experiment) -> None:
    grid = yaml.safe_load((ROOT / "configs" / "benchmarks" / f"{experiment.name}.yaml").read_text(encoding="utf-8"))
    assert {m for f in experiment.findings for m in (*f.better, *f.worse)} <= set(grid["grid"]["methods"])


def ensemble(**adjusted: float) -> Result:
    """Return a record: the vote is right on 86 %, the second member is chosen; `mean` and `chosen` are p values."""
    differences = {(VOTE, SINGLE): 0.04, (VOTE, CHOSEN): 0.05, (SINGLE, CHOSEN): 0.01}
    p = {(VOTE, SINGLE): adjusted.get("mean", 0.001), (VOTE, CHOSEN): adjusted.get("chosen", 0.001)}
    made = [
        Comparison(*pair, metric, d, d - 0.02, d + 0.02, p.get(pair, 0.5), 0.9, 600, (1, 3))
        for metric in ("accuracy", "macro_f1")
        for pair, d in differences.items()
    ]
    notes = {
        "members": [{"metrics": {"accuracy": {"value": x}}} for x in (0.80, 0.81, 0.85)],
        "mean": {"accuracy": {"value": 0.82}},
        "chosen": {"metrics": {"accuracy": {"value": 0.81}}},
        "comparisons": [asdict(c) for c in made],
    }
    metrics = {"accuracy": Interval(0.86, 0.83, 0.89, 600), "macro_f1": Interval(0.5, 0.4, 0.6, 600)}
    return make_result(recipe="ensemble", metrics=metrics, notes=notes)


def neighbours(learned: list[float], chance: list[float]) -> dict[str, Any]:
    """Return a record whose tokens have these clusters."""

    def tokens(clusters: list[float]) -> list[dict[str, Any]]:
        return [{"tokens": [" a", "b"], "similarities": [c + 0.1, c], "cluster": c} for c in clusters]

    return {"k": 2, "learned": tokens(learned), "random": tokens(chance)}


def test_a_vote_is_held_against_the_mean_and_against_the_best_by_validation() -> None:
    result = ensemble(chosen=0.4)
    found = of_ensemble(EXPERIMENTS["ensemble"], result)
    assert found.table().iloc[:, 1:].to_numpy().tolist() == [
        [
            *("we agree", "accuracy", "the vote: 86.0 %", "a single prompt: 82.0 %"),
            *("+4.0 points", "+2.0 to +6.0", "0.002"),  # for the two that were planned, not for all three
        ],
        [
            *("no difference is shown", "accuracy", "the vote: 86.0 %", "the best by validation: 81.0 %"),
            *("+5.0 points", "+3.0 to +7.0", "0.400"),
        ],
    ]
    lost = replace(result, notes=result.notes | {"comparisons": result.notes["comparisons"][1:]})
    assert of_ensemble(EXPERIMENTS["ensemble"], lost).verdicts[0].missing == (
        "the comparison of the vote with a single prompt",
    )
    drawing = draw_ensemble("it", result)
    axis = drawing.figure.axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    marks = [[round(float(x), 6) for x in line.get_xdata()] for line in axis.lines]
    drawn = {"the 3 prompts": [80, 81, 85], "their mean": [82], CHOSEN: [81], VOTE: [86]}
    assert dict(zip(names, marks, strict=True)) == drawn
    close([drawing])


@pytest.mark.parametrize(
    ("learned", "chance", "word"),
    [
        ([0.5, 0.6, 0.55, 0.5], [0.1, 0.2, 0.15, 0.1], "we agree"),
        ([0.1, 0.2, 0.15, 0.1], [0.5, 0.6, 0.55, 0.5], "we do not"),
        ([0.1, 0.6, 0.3, 0.5], [0.2, 0.5, 0.4, 0.1], "no difference is shown"),
    ],
)
def test_neighbours_are_held_against_those_of_random_vectors(
    learned: list[float], chance: list[float], word: str
) -> None:
    found = of_neighbours(EXPERIMENTS["neighbours"], neighbours(learned, chance))
    (row,) = found.table().to_dict("records")
    assert row["here"] == word
    assert row["method"] == f"4 learned tokens: {sum(learned) / 4:.2f}"
    assert row["against"] == f"random vectors: {sum(chance) / 4:.2f}"
    assert f"(the nearest has a plain cosine of {sum(learned) / 4 + 0.1:.2f})" in row["measure"]


def test_the_interval_is_that_of_welch_by_hand_and_the_marks_are_the_record_s() -> None:
    """Two samples of two, each of variance 0.02: two degrees of freedom, whose t is 4.303 (Student 1908)."""
    record = neighbours([0.4, 0.6], [0.0, 0.2])
    (row,) = of_neighbours(EXPERIMENTS["neighbours"], record).table().to_dict("records")
    half = 4.303 * (0.02 / 2 + 0.02 / 2) ** 0.5
    assert row["difference"] == "+0.40"
    assert row["95 % interval"] == f"{0.4 - half:+.2f} to {0.4 + half:+.2f}".replace("-", "−")
    assert row["here"] == "no difference is shown"
    drawing = draw_neighbours("it", record)
    marks = {
        str(line.get_label()): [tuple(round(float(v), 6) for v in point) for point in line.get_xydata()]
        for line in drawing.figure.axes[0].lines
    }
    assert marks == {"learned tokens": [(0.5, 0.4), (0.7, 0.6)], "random vectors": [(0.1, 0.0), (0.3, 0.2)]}
    close([drawing])
