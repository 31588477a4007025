"""The papers' experiments: each kind of agreement, what is missing, and that each names a grid that there is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.report import papers
from benchmarks.report.evidence import Records
from benchmarks.report.papers import (
    EXPERIMENTS,
    Experiment,
    Finding,
    answers,
    papers_markdown,
    papers_table,
    paragraph,
)
from helpers import ROOT
from made_benchmark import make_benchmark
from softprompts.metrics.significance import Comparison

import pytest
import yaml

APART = Finding("Prompts beat LoRA.", ("prompt_tuning",), ("lora",))
ALIKE = Finding("Prefixes gain little over prompts.", ("prefix_tuning",), ("prompt_tuning",), apart=False)


def answer(folder: Path, finding: Finding, monkeypatch: pytest.MonkeyPatch, **compared: Any) -> Any:
    experiment = Experiment("sentiment", "Which is better?", "Somebody (2021), section 1", (finding,))
    monkeypatch.setattr(papers, "EXPERIMENTS", (experiment,))
    values = SimpleNamespace(**{"difference": 0.1, "p": 0.001} | compared)
    comparison = Comparison(
        finding.better[0], finding.worse[0], "accuracy", values.difference, -0.2, 0.2, values.p, values.p, 4, (3, 3)
    )
    benchmark = make_benchmark(folder, without=compared.get("without", ()))
    return answers(Records({"sentiment": benchmark}, {"sentiment": [comparison]}))


@pytest.mark.parametrize(
    ("finding", "difference", "p", "word"),
    [
        (APART, 0.1, 0.001, "we agree"),
        (APART, -0.1, 0.001, "we do not"),
        (APART, 0.1, 0.5, "no difference is shown"),
        (ALIKE, 0.1, 0.001, "we do not"),  # a gain is shown
        (ALIKE, 0.1, 0.5, "no gain is shown"),
        (ALIKE, -0.1, 0.001, "no gain is shown"),
    ],
)
def test_agreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finding: Finding, difference: float, p: float, word: str
) -> None:
    (found,) = answer(tmp_path, finding, monkeypatch, difference=difference, p=p)
    assert found.verdicts[0][1] == word
    said = paragraph(found)
    assert said.startswith(f"Which is better? Somebody (2021), section 1: {finding.statement} Here {word}: accuracy, ")
    assert f"{100 * difference:+.1f} points".replace("-", "−") in said


def test_a_missing_run_leaves_the_question_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = answer(tmp_path, APART, monkeypatch, without=["lora/seed2"])
    assert found.verdicts[0][1] is None
    assert paragraph(found).endswith("Prompts beat LoRA. No verdict; missing: LoRA, seed 2 (no record).")


def test_the_readme_has_a_row_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answer(tmp_path / "whole", APART, monkeypatch)
    row = papers_table(found, {"sentiment": ["a.png"]}).splitlines()[-1]
    assert row.startswith("| [sentiment](a.png) | Somebody (2021), section 1: Prompts beat LoRA. | we agree | ")
    assert "accuracy, prompt tuning against LoRA: " in row
    found = answer(tmp_path / "part", APART, monkeypatch, without=["lora/seed2"])
    assert papers_table(found, {}).splitlines()[-1].endswith("Prompts beat LoRA. | records are missing |  |")


def test_without_records_nothing_is_said() -> None:
    assert answers(Records({}, {})) == []
    assert "No grid of them is recorded." in papers_markdown([])


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.grid)
def test_findings_name_methods_of_their_grid(experiment: Experiment) -> None:
    grid = yaml.safe_load((ROOT / "configs" / "benchmarks" / f"{experiment.grid}.yaml").read_text(encoding="utf-8"))
    assert {m for f in experiment.findings for m in (*f.better, *f.worse)} <= set(grid["grid"]["methods"])
