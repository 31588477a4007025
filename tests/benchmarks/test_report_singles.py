"""The papers' experiments without a grid: an ensemble's record, and that of neighbours, held against the paper."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report.page import render_page
from benchmarks.report.papers import paragraph
from benchmarks.report.singles import draw_ensemble, draw_neighbours, of_ensemble, of_neighbours, singles
from benchmarks.report.style import close
from made_result import make_result
from softprompts.evaluation.ensemble import CHOSEN, SINGLE, VOTE
from softprompts.metrics.scoring import Interval
from softprompts.metrics.significance import Comparison
from softprompts.runs.record import Result

import pytest

ALONE = (0.80, 0.81, 0.85)  # of the members


def ensemble(**adjusted: float) -> Result:
    """Return a record: the vote is right on 86 %, the second member is chosen; `mean` and `chosen` are p values."""
    differences = {(VOTE, SINGLE): 0.04, (VOTE, CHOSEN): 0.05, (SINGLE, CHOSEN): 0.01}
    p = {(VOTE, SINGLE): adjusted.get("mean", 0.001), (VOTE, CHOSEN): adjusted.get("chosen", 0.001)}
    made = [
        Comparison(*pair, metric, d, d - 0.02, d + 0.02, 0.1, p.get(pair, 0.5), 600, (1, 3))
        for metric in ("accuracy", "macro_f1")
        for pair, d in differences.items()
    ]
    notes = {
        "members": [{"adapter": f"m{n}", "metrics": {"accuracy": number(x)}} for n, x in enumerate(ALONE)],
        "mean": {"accuracy": number(0.82)},
        "chosen": {"by": "validation accuracy", "adapter": "m1", "metrics": {"accuracy": number(0.81)}},
        "comparisons": [asdict(c) for c in made],
    }
    metrics = {"accuracy": Interval(0.86, 0.83, 0.89, 600), "macro_f1": Interval(0.5, 0.4, 0.6, 600)}
    return make_result(recipe="ensemble", metrics=metrics, notes=notes)


def number(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.03, "high": value + 0.03, "rows": 600}


def neighbours(learned: list[float], chance: list[float]) -> dict[str, Any]:
    """Return a record whose tokens have these clusters."""

    def tokens(clusters: list[float]) -> list[dict[str, Any]]:
        return [{"tokens": [" a", "b"], "similarities": [c + 0.1, c], "cluster": c} for c in clusters]

    return {"model": "m", "adapter": "a", "k": 2, "learned": tokens(learned), "random": tokens(chance)}


def test_a_vote_is_held_against_the_mean_and_against_the_best_by_validation() -> None:
    said = paragraph(of_ensemble(ensemble(chosen=0.4)))
    assert said == (
        "Do soft prompts of one task answer better together? Lester et al. (2021), section 6: A vote scores above the "
        "mean of its prompts. Here we agree: accuracy, the vote against a single prompt: 86.0 % against 82.0 %, +4.0 "
        "points (95 % interval +2.0 to +6.0, adjusted p 0.001). It beats, or matches, the best of them. Here no "
        "difference is shown: accuracy, the vote against the best by validation: 86.0 % against 81.0 %, +5.0 points "
        "(95 % interval +3.0 to +7.0, adjusted p 0.400)."
    )
    assert [word for _, word, _ in of_ensemble(ensemble(mean=0.06)).verdicts] == ["no difference is shown", "we agree"]


def test_what_is_drawn_of_a_vote_is_what_is_recorded() -> None:
    drawing = draw_ensemble(ensemble())
    axis = drawing.figure.axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    marks = [[round(float(x), 6) for x in line.get_xdata()] for line in axis.lines]
    assert dict(zip(names, marks, strict=True)) == {
        "the 3 prompts": [80, 81, 85],
        "their mean": [82],
        CHOSEN: [81],
        VOTE: [86],
    }
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
    ((_, found, sentence),) = of_neighbours(neighbours(learned, chance)).verdicts
    assert found == word
    assert f"words of 4 learned tokens {sum(learned) / 4:.2f}, of random vectors {sum(chance) / 4:.2f}, " in sentence
    assert sentence.endswith(f"the nearest word is at a cosine of {sum(learned) / 4 + 0.1:.2f}")


def test_the_interval_is_that_of_welch_by_hand() -> None:
    """Two samples of two, each of variance 0.02: two degrees of freedom, whose t is 4.303 (Student 1908)."""
    ((_, word, sentence),) = of_neighbours(neighbours([0.4, 0.6], [0.0, 0.2])).verdicts
    half = 4.303 * (0.02 / 2 + 0.02 / 2) ** 0.5
    assert f"+0.40 (95 % interval {0.4 - half:+.2f} to {0.4 + half:+.2f}, ".replace("-", "−") in sentence
    assert word == "no difference is shown"


def test_what_is_drawn_of_neighbours_is_what_is_recorded() -> None:
    drawing = draw_neighbours(neighbours([0.5, 0.6], [0.1, 0.2]))
    marks = {
        str(line.get_label()): [tuple(round(float(v), 6) for v in point) for point in line.get_xydata()]
        for line in drawing.figure.axes[0].lines
    }
    assert marks == {"learned tokens": [(0.6, 0.5), (0.7, 0.6)], "random vectors": [(0.2, 0.1), (0.3, 0.2)]}
    close([drawing])


def test_only_what_is_recorded_has_a_section(tmp_path: Path) -> None:
    files = (tmp_path / "ensemble.json", tmp_path / "neighbours.json")
    assert singles(*files) == []
    files[0].write_text(json.dumps(asdict(ensemble())), encoding="utf-8")
    (one,) = singles(*files)
    files[1].write_text(json.dumps(neighbours([0.5, 0.6], [0.1, 0.2])), encoding="utf-8")
    both = singles(*files)
    assert [s.answer.experiment.grid for s in both] == ["lester_ensemble", "lester_neighbours"]
    page = render_page([], {}, {}, (), [s.answer for s in both], both)
    for name in ("lester_ensemble", "lester_neighbours"):
        assert f'<a href="#{name}">{name.replace("_", " ")}</a>' in page
        assert f'<section id="{name}">' in page
    assert page.count("<figure>") == 2
    close([one.drawing, *(s.drawing for s in both)])
