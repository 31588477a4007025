"""The benchmark's tables: every number comes from the records, and missing records are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from benchmarks.grid.settings import load_benchmark
from benchmarks.report.claims import make_card
from benchmarks.report.frame import turned
from benchmarks.report.page import pairs, summary
from benchmarks.report.tables import (
    comparisons_table,
    notes,
    results_markdown,
    results_table,
    sweeps_table,
)
from made_benchmark import make_benchmark, make_comparisons, records_of
from softprompts.metrics.significance import Comparison
from softprompts.reports.pages.frame import gaps, numbers
from softprompts.reports.pages.tables import Measure, markdown, measures_table, points
from softprompts.reports.tables import size

import pytest
from pandas import DataFrame

LOST = "–"


def row(table: DataFrame, name: str) -> list[str]:
    (found,) = [list(r) for r in table.itertuples(index=False) if r[0] == name]
    return found


def test_numbers_are_those_of_the_records(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    table = results_table(records_of(benchmark), "sentiment")
    assert list(table.columns) == [
        *("sentiment, 4 test rows", "accuracy", "macro_f1"),
        *("seeds", "trained", "saved", "training", "tokens/s", "memory"),
    ]
    for method in benchmark.grid["methods"]:
        found = row(table, benchmark.label(method))
        cells = benchmark.cells[method].values()
        scores = [100 * c.result.metrics["accuracy"].value for c in cells]
        assert found[1] == f"{mean(scores):.1f} ± {stdev(scores):.1f}"
        assert found[4] == f"{next(iter(cells)).result.parameters['trainable']:,}"
        if found[4] != "0":
            assert found[6] == f"{mean(c.result.cost['seconds_training'] for c in cells):.0f} s"
    prompt = ["prompt tuning", "70.0 ± 1.0", "70.0 ± 1.0", "3", "11,520", "45 KiB", "421 s", "300", "2.0 GiB"]
    assert row(table, "prompt tuning") == prompt
    assert row(table, "hard prompt, 8-shot")[3:] == ["3", "0", "", "", "", "1.0 GiB"]
    assert row(table, "majority class")[1] == "25.0"


def test_one_seed_has_no_deviation_and_some_tasks_no_majority(tmp_path: Path) -> None:
    table = results_table(records_of(make_benchmark(tmp_path, "docstrings", seeds=1)), "docstrings")
    assert row(table, "LoRA")[1:5] == ["79.0", "79.0", "79.0", "1"]
    assert table.iloc[0, 0] == "hard prompt, zero-shot"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    absent = [f"p_tuning/seed{n}" for n in range(3)] + ["lora/seed0"]
    failed = {"lora/seed1": "out of | memory"}
    records = records_of(make_benchmark(tmp_path, without=absent, failed=failed))
    table = results_table(records, "sentiment")
    assert row(table, "P-tuning")[1:] == [LOST, LOST, "0 of 3", LOST, "", "", "", LOST]
    assert row(table, "LoRA")[1:4] == ["81.0", "81.0", "1 of 3"]
    missing = [
        "P-tuning, seeds 0, 1, 2 (no record)",
        "LoRA, seed 0 (no record)",
        "LoRA, seed 1 (failed: out of | memory)",
    ]
    assert gaps(records.of("sentiment")) == missing
    assert results_markdown(records, "sentiment").endswith(f"\n\nMissing: {'; '.join(missing)}.")
    assert "Missing" not in results_markdown(records_of(make_benchmark(tmp_path / "whole")), "sentiment")


def test_a_benchmark_without_any_run_is_all_gaps(tmp_path: Path) -> None:
    methods = make_benchmark(tmp_path / "whole").cells
    benchmark = make_benchmark(tmp_path, seeds=1, without=[f"{m}/seed0" for m in methods])
    records = records_of(benchmark)
    assert records.metrics("sentiment") == []
    assert len(gaps(records.of("sentiment"))) == 7
    assert set(results_table(records, "sentiment")["seeds"]) == {"0 of 1"}


def test_an_older_run_drops_no_metric(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    for seed in range(3):
        del benchmark.cells["zero_shot"][seed].result.metrics["accuracy"]
    del benchmark.cells["lora"][2].result.metrics["macro_f1"]
    table = results_table(records_of(benchmark), "sentiment")
    assert list(table.columns[1:3]) == ["accuracy", "macro_f1"]
    assert row(table, "hard prompt, zero-shot")[1:3] == [LOST, "30.0 ± 1.0"]
    assert row(table, "LoRA")[1:3] == ["80.0 ± 1.0", "79.5 ± 0.7 (2 of 3 runs)"]


def test_a_number_that_was_not_measured_is_not_zero(tmp_path: Path) -> None:
    runs = records_of(make_benchmark(tmp_path)).of("sentiment")
    energy, memory = Measure("energy", "cost.energy_kwh", "whole"), Measure("memory", "cost.peak_memory_gib", "whole")
    assert len(numbers(runs, energy.column)) == 0
    assert row(measures_table(runs, [energy, memory]), "LoRA") == ["LoRA", LOST, "3 ± 0"]


def test_methods_with_weights_of_several_data_types_are_named(tmp_path: Path) -> None:
    found = make_benchmark(tmp_path, seeds=1)
    assert "data type" not in results_markdown(records_of(found), "sentiment")
    for method, cells in found.cells.items():
        mixed = "bf16" if method == "full_finetuning" else "no"
        environment = {"dtype": "bfloat16" if mixed == "no" else "float32", "mixed_precision": mixed}
        cells[0] = replace(cells[0], result=replace(cells[0].result, environment=environment))
    said = results_markdown(records_of(found), "sentiment").splitlines()[-1]
    assert said.endswith("; float32, multiplied in bf16: full fine-tuning).")
    assert "weights (bfloat16: " in said


def test_runs_that_their_sweep_has_left_behind_are_said(tmp_path: Path) -> None:
    assert "Sweeps" not in results_markdown(records_of(make_benchmark(tmp_path)), "sentiment")
    file = tmp_path / "sentiment" / "lora" / "sweep.json"
    sweep = json.loads(file.read_text(encoding="utf-8"))
    sweep["chosen"] = {"training.learning_rate": 0.3}
    file.write_text(json.dumps(sweep), encoding="utf-8")
    records = records_of(load_benchmark(tmp_path / "sentiment"))
    sentence = "validation now has another choice: LoRA (learning_rate 0.3)."
    assert results_markdown(records, "sentiment").endswith(sentence)
    (note,) = notes(records)
    assert note.startswith("sentiment: Sweeps continued after")


def test_comparisons(tmp_path: Path) -> None:
    made = [
        Comparison("prompt_tuning", "few_shot", "accuracy", 0.2, 0.123, 0.25, 0.0001, 0.0009, 4, (3, 3)),
        Comparison("prompt_tuning", "lora", "accuracy", -0.1, -0.2, -0.01, 0.02, 0.049, 4, (3, 3)),
        Comparison("p_tuning", "lora", "accuracy", -0.1, -0.2, -0.001, 0.04, 0.05, 4, (3, 3)),
    ]
    assert comparisons_table(make_benchmark(tmp_path), made).to_numpy().tolist() == [
        [
            *("prompt tuning − hard prompt, 8-shot", "accuracy", "+20.0", "+12.3 to +25.0", "< 0.001"),
            "prompt tuning is higher",
        ],
        ["prompt tuning − LoRA", "accuracy", "−10.0", "−20.0 to −1.0", "0.049", "LoRA is higher"],
        ["P-tuning − LoRA", "accuracy", "−10.0", "−20.0 to −0.1", "0.050", "no difference shown"],
    ]


def test_a_comparison_is_found_from_both_sides(tmp_path: Path) -> None:
    records = records_of(make_benchmark(tmp_path))
    for c in make_comparisons("sentiment"):
        assert records.compared("sentiment", c.metric, c.first, c.second) == c == turned(turned(c))
        other = records.compared("sentiment", c.metric, c.second, c.first)
        assert other == turned(c)
        assert (other.difference, other.low, other.high) == (-c.difference, -c.high, -c.low)


def test_sweeps(tmp_path: Path) -> None:
    table = sweeps_table(make_benchmark(tmp_path))
    assert len(table) == 5 * 3
    assert table.to_numpy()[:3].tolist() == [
        ["prompt tuning", "learning_rate 0.01", "loss 0.5000", ""],
        ["prompt tuning", "learning_rate 0.03", "loss 0.2500", "chosen"],
        ["prompt tuning", "learning_rate 0.1", "failed: the loss became nan", ""],
    ]


def test_a_cell_cannot_break_a_markdown_table() -> None:
    assert markdown(DataFrame({"a": ["x\ny"], "b": ["1 | 2"]})) == "| a | b |\n|---|---|\n| x y | 1 \\| 2 |"


@pytest.mark.parametrize(("count", "shown"), [(0, "0"), (46_200, "45 KiB"), (9_823_216, "9.4 MiB")])
def test_sizes(count: float, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(("difference", "shown"), [(0.0, "+0.0"), (-0.0, "+0.0"), (-0.123, "−12.3"), (0.05, "+5.0")])
def test_points(difference: float, shown: str) -> None:
    assert points(difference) == shown


def test_the_readme_shows_a_task_once_all_its_runs_are_there(tmp_path: Path) -> None:
    whole, part = make_benchmark(tmp_path), make_benchmark(tmp_path, "docstrings", without=["lora/seed1"])
    records = records_of(whole, part)
    said = summary(records, make_card(records), {"sentiment": ["docs/sentiment_seconds.png"]})
    assert "| LoRA | 80.0 ± 1.0 |" in said
    assert "![sentiment: seconds](docs/sentiment_seconds.png)" in said
    assert "**home_commands**: no run is recorded" in said
    assert "**docstrings**: 20 of 21 runs are recorded; results follow when all are." in said
    assert "docstrings, 4 test rows" not in said
    fewer = "| Soft prompts train fewer parameters than LoRA and full fine-tuning. |"
    assert f"{fewer} holds (sentiment); no verdict (home_commands, docstrings) |" in said
    assert "|" not in summary(records_of(part), make_card(records_of(part)), {})


def test_pairs_of_the_readme_are_seen_from_the_soft_prompt(tmp_path: Path) -> None:
    records = records_of(make_benchmark(tmp_path), make_benchmark(tmp_path, "docstrings"))
    said = pairs(records, "sentiment")
    assert "| prompt tuning − hard prompt, 8-shot | accuracy | +20.0 | +15.0 to +25.0 |" in said
    assert "| prompt tuning − LoRA | accuracy | −10.0 |" in said
    assert said.count("\n") == 1 + 9  # three soft prompts against three others, and the head
    said = pairs(records, "docstrings")
    assert said.count("\n") == 1 + 9 + 9
    assert "| P-tuning − full fine-tuning | style_rate | −14.0 |" in said
    assert "chrf" not in said
