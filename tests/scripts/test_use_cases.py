"""The results part of a use case's guide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from made_benchmark import METRICS, ROWS, make_benchmark, records_of
from scripts.build_docs import use_cases
from scripts.build_docs.use_cases import decide, decided
from softprompts.metrics.scoring import Interval

import pytest


def test_models_that_may_abstain_also_have_their_scores_without_it(tmp_path: Path) -> None:
    found = make_benchmark(tmp_path, "sentiment", seeds=2)
    assert list(decided(records_of(found), "sentiment")) == [], "no run had a threshold"

    def scored(value: float) -> dict[str, Interval]:
        return dict.fromkeys(METRICS["sentiment"], Interval(value, 0.0, 1.0, ROWS))

    values = {"majority_class": 0.4, "all_abstained": 0.9}
    for cells in found.cells.values():
        for seed, cell in cells.items():
            baselines = {name: scored(value) for name, value in values.items()}
            baselines |= {"all_decided": scored(0.5 + 0.1 * seed)}
            cells[seed] = replace(cell, result=replace(cell.result, baselines=baselines))
    _, table = decided(records_of(found), "sentiment")
    lines = table.splitlines()
    assert lines[0] == "| method | accuracy, % | macro_f1, % |"
    assert "| prompt tuning | 55.0 | 55.0 |" in lines
    assert lines[-2:] == ["| the most frequent answer | 40.0 | 40.0 |", "| a person decides every row | 90.0 | 90.0 |"]


def test_only_a_first_score_that_is_the_share_of_right_answers_leads_to_a_business_case() -> None:
    assert "make business-case CASE=configs/business/mine.yaml" in decide("support", "prefix_tuning")
    for task in ("localisation", "analytics", "docstrings", "campaign"):
        steps = decide(task, "prefix_tuning")
        assert "business" not in steps
        assert f"make governance RUN=runs/{task}/prefix_tuning" in steps


def test_a_further_benchmark_shows_scores_and_differences_without_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_cases, "records_of", lambda name: None)
    assert use_cases.further("passage") == "No run is recorded yet: `make bench GRID=passage` makes them."
    found = records_of(make_benchmark(tmp_path, "sentiment", seeds=2))
    monkeypatch.setattr(use_cases, "records_of", lambda name: found)
    page = use_cases.further("sentiment")
    assert "| sentiment, 4 test rows |" in page
    assert "Soft prompts minus the other methods, by accuracy:" in page
    assert "target" not in page
