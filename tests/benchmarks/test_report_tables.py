"""The benchmark's tables: every number is that of the records, and what is missing is said."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev

from benchmarks.grid.settings import load_benchmark
from benchmarks.report.claims_card import card_html, card_markdown
from benchmarks.report.tables import (
    Table,
    comparisons_table,
    gaps,
    markdown,
    metrics_of,
    notes,
    over_seeds,
    points,
    results_markdown,
    results_table,
    size,
    spread,
    sweeps_table,
)
from made_benchmark import make_benchmark
from softprompts.metrics.significance import Comparison

import pytest


def row(table: Table, name: str) -> tuple[str, ...]:
    (found,) = [r for r in table.rows if r[0] == name]
    return found


def test_numbers_are_those_of_the_records(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    table = results_table(benchmark)
    assert table.head == (
        *("sentiment, 4 test rows", "accuracy", "macro_f1"),
        *("seeds", "trained", "saved", "training", "tokens/s", "memory"),
    )
    for method in benchmark.grid["methods"]:
        found = row(table, benchmark.label(method))
        cells = benchmark.cells[method].values()
        scores = [100 * c.result.metrics["accuracy"].value for c in cells]
        assert found[1] == f"{mean(scores):.1f} ± {stdev(scores):.1f}"
        assert found[4] == f"{next(iter(cells)).result.parameters['trainable']:,}"
        if found[4] != "0":
            assert found[6] == f"{mean(c.result.cost['seconds_training'] for c in cells):.0f} s"
    prompt = ("prompt tuning", "70.0 ± 1.0", "70.0 ± 1.0", "3", "11,520", "45 KiB", "421 s", "300", "2.0 GiB")
    assert row(table, "prompt tuning") == prompt
    assert row(table, "hard prompt, 8-shot")[3:] == ("3", "0", "", "", "", "1.0 GiB")
    assert row(table, "majority class")[1] == "25.0"


def test_one_seed_has_no_deviation_and_some_tasks_no_majority(tmp_path: Path) -> None:
    table = results_table(make_benchmark(tmp_path, "docstrings", seeds=1))
    assert row(table, "LoRA")[1:5] == ("79.0", "79.0", "79.0", "1")
    assert table.rows[0][0] == "hard prompt, zero-shot"


def test_runs_that_their_sweep_has_left_behind_are_said(tmp_path: Path) -> None:
    assert "Sweeps" not in results_markdown(make_benchmark(tmp_path))
    file = tmp_path / "sentiment" / "lora" / "sweep.json"
    sweep = json.loads(file.read_text(encoding="utf-8"))
    sweep["chosen"] = {"training.learning_rate": 0.3}
    file.write_text(json.dumps(sweep), encoding="utf-8")
    benchmark = load_benchmark(tmp_path / "sentiment")
    assert benchmark.outdated == {"lora": {"training.learning_rate": 0.3}}
    sentence = "validation chooses otherwise now: LoRA (learning_rate 0.3)."
    assert results_markdown(benchmark).endswith(sentence)
    (note,) = notes([benchmark])
    assert note.startswith("sentiment: Sweeps have gone on")
    assert note in card_markdown([], [note])
    assert note in card_html([], [note])


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    absent = [f"p_tuning/seed{n}" for n in range(3)] + ["lora/seed0"]
    benchmark = make_benchmark(tmp_path, without=absent, failed={"lora/seed1": "out of | memory"})
    table = results_table(benchmark)
    assert row(table, "P-tuning")[1:] == (
        *("none recorded", "none recorded", "0 of 3", "none recorded"),
        *("", "", "", "none recorded"),
    )
    assert row(table, "LoRA")[1:4] == ("81.0", "81.0", "1 of 3")
    assert gaps(benchmark) == [
        "P-tuning, seeds 0, 1, 2 (no record)",
        "LoRA, seed 0 (no record)",
        "LoRA, seed 1 (failed: out of | memory)",
    ]
    assert results_markdown(benchmark).endswith(f"\n\nMissing: {'; '.join(gaps(benchmark))}.")
    assert "Missing" not in results_markdown(make_benchmark(tmp_path / "whole"))


def test_a_benchmark_without_any_run_is_all_gaps(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, seeds=1, without=[f"{m}/seed0" for m in make_benchmark(tmp_path / "b").cells])
    assert metrics_of(benchmark) == []
    assert len(gaps(benchmark)) == 7
    assert {r[1] for r in results_table(benchmark).rows} == {"0 of 1"}


def test_only_metrics_that_every_run_reports_have_a_column(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    del benchmark.cells["lora"][2].result.metrics["macro_f1"]
    assert metrics_of(benchmark) == ["accuracy"]


def test_a_number_that_was_not_measured_is_not_zero(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    energy = over_seeds(benchmark, "lora", lambda cell: cell.result.cost.get("energy_kwh"), str)
    assert energy == "none recorded"


def test_comparisons(tmp_path: Path) -> None:
    made = [
        Comparison("prompt_tuning", "few_shot", "accuracy", 0.2, 0.123, 0.25, 0.0001, 0.0009, 4, (3, 3)),
        Comparison("prompt_tuning", "lora", "accuracy", -0.1, -0.2, -0.01, 0.02, 0.049, 4, (3, 3)),
        Comparison("p_tuning", "lora", "accuracy", -0.1, -0.2, -0.001, 0.04, 0.05, 4, (3, 3)),
    ]
    assert comparisons_table(make_benchmark(tmp_path), made).rows == (
        (
            *("prompt tuning − hard prompt, 8-shot", "accuracy", "+20.0", "+12.3 to +25.0", "< 0.001"),
            "prompt tuning is higher",
        ),
        ("prompt tuning − LoRA", "accuracy", "−10.0", "−20.0 to −1.0", "0.049", "LoRA is higher"),
        ("P-tuning − LoRA", "accuracy", "−10.0", "−20.0 to −0.1", "0.050", "no difference shown"),
    )


def test_sweeps(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    assert len(benchmark.sweeps) == 5
    assert sweeps_table(benchmark).rows[:3] == (
        ("prompt tuning", "learning_rate 0.01", "loss 0.5000", ""),
        ("prompt tuning", "learning_rate 0.03", "loss 0.2500", "chosen"),
        ("prompt tuning", "learning_rate 0.1", "failed: the loss became nan", ""),
    )


def test_a_cell_cannot_break_a_markdown_table() -> None:
    assert markdown(Table(("a", "b"), (("x\ny", "1 | 2"),))) == "| a | b |\n| --- | --- |\n| x y | 1 \\| 2 |"


@pytest.mark.parametrize(("count", "shown"), [(0, "0"), (46_200, "45 KiB"), (9_823_216, "9.4 MiB")])
def test_sizes(count: float, shown: str) -> None:
    assert size(count) == shown


def test_spread() -> None:
    assert [spread(v, str) for v in ([], [2.0], [1.0, 3.0])] == ["none recorded", "2.0", "2.0 ± 1.4142135623730951"]


@pytest.mark.parametrize(("difference", "shown"), [(0.0, "+0.0"), (-0.0, "+0.0"), (-0.123, "−12.3"), (0.05, "+5.0")])
def test_points(difference: float, shown: str) -> None:
    assert points(difference) == shown
