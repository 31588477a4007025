"""The targets of the final runs: each verdict follows from the records, and a missing record gives none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import Benchmark, load_benchmark
from benchmarks.report.frame import Records, make_records
from benchmarks.report.tables import read_config
from benchmarks.report.targets import KINDS, NAMES, targets_markdown, targets_table
from benchmarks.time_to_quality.goals import asked
from benchmarks.time_to_quality.ratio import SEEDS
from helpers import ROOT
from made_benchmark import make_benchmark, make_comparisons

import pytest
from pandas import DataFrame

TASKS = ("sentiment", "docstrings", "home_commands")


def times(folder: Path, task: str, recipe: float, stock: float, reached: bool = True) -> None:
    """Write a record of time to quality with three runs a side."""
    runs = [{"side": "recipe", "seed": seed, "reached": True, "seconds": recipe} for seed in SEEDS]
    runs += [{"side": "stock", "seed": seed, "reached": reached, "seconds": stock} for seed in SEEDS]
    (folder / f"{task}.json").write_text(json.dumps(asked(task) | {"runs": runs}), encoding="utf-8")


def records(folder: Path, adjusted: float = 0.001, short: float = 0.7) -> Records:
    """Return records of the final runs, and of those with half the steps, which have the same scores."""
    made = []
    for task in TASKS:
        whole = make_benchmark(folder, task)
        made += [with_training(whole, f"final_{task}", steps=100), with_training(whole, f"half_{task}", steps=50)]
    compared = {b.name: make_comparisons(b.name.partition("_")[2], adjusted) for b in made}
    return make_records(made, compared)


def with_training(benchmark: Benchmark, name: str, **changed: Any) -> Benchmark:
    """Return a benchmark with another name, whose runs have these settings of training."""
    cells = {
        method: {
            seed: replace(cell, result=replace(cell.result, settings=changed_training(cell.result.settings, changed)))
            for seed, cell in own.items()
        }
        for method, own in benchmark.cells.items()
    }
    return replace(benchmark, name=name, cells=cells)


def changed_training(settings: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    return settings | {"training": settings.get("training", {}) | changed}


def row(table: DataFrame, kind: str, method: str, benchmark: str) -> dict[str, Any]:
    found = table[table.target.str.startswith(f"{NAMES[kind]}, {method}") & (table.benchmark == benchmark)]
    assert len(found) == 1
    values: dict[str, Any] = found.iloc[0].to_dict()
    return values


def test_each_kind_of_target_by_hand(tmp_path: Path) -> None:
    """The invented scores: prompt 0.70, prefix 0.72, LoRA 0.80, 8-shot 0.50; seeds are a point apart."""
    times(tmp_path, "sentiment", 20.0, 160.0)
    times(tmp_path, "home_commands", 20.0, 80.0, reached=False)
    table = targets_table(records(tmp_path / "records"), tmp_path)
    score = row(table, "score", "prompt tuning", "final_home_commands")
    assert (score["verdict"], score["asked"]) == ("reached", "at least 70 % of LoRA")
    assert score["found"].startswith("87.")
    assert row(table, "score", "prompt tuning", "final_sentiment")["verdict"] == "missed"
    size = row(table, "bytes", "prompt tuning", "final_sentiment")
    assert (size["verdict"], size["found"]) == ("reached", "1/213 (46,200 of 9,823,216)")
    assert size["asked"] == "at most 1/100 of LoRA with rank 8"
    assert row(table, "bytes", "prefix tuning", "final_sentiment")["verdict"] == "reached"
    spread = row(table, "spread", "prompt tuning", "final_sentiment")
    assert (spread["verdict"], spread["found"]) == ("reached", "1.0 points (3 seeds)")
    half = row(table, "half", "prefix tuning", "final_docstrings")
    assert (half["verdict"], half["found"].partition(" ")[0]) == ("reached", "100.0")
    shown = row(table, "shown", "prompt tuning", "final_home_commands")
    assert (shown["verdict"], shown["asked"]) == ("reached", "above few-shot examples, shown")
    assert "valid_schema +20.0 points, adjusted p" in shown["found"]
    assert row(table, "time", "prompt tuning", "sentiment")["verdict"] == "reached"
    slow = row(table, "time", "prefix tuning", "home_commands")
    assert (slow["verdict"], slow["found"].startswith("more than 4.0 times as long")) == ("missed", True)


def test_bytes_are_those_of_lora_with_the_rank_of_the_target(tmp_path: Path) -> None:
    """A LoRA of rank 32 is four times as large, and the soft prompt is not four times better for it."""
    found = records(tmp_path)
    cells = found.benchmarks["final_sentiment"].cells["lora"]
    for seed, cell in cells.items():
        cells[seed] = replace(cell, result=replace(cell.result, settings=cell.result.settings | {"lora": {"r": 32}}))
    size = row(targets_table(found, tmp_path), "bytes", "prompt tuning", "final_sentiment")
    assert size["found"] == "1/53 (46,200 of 2,455,804)"
    assert size["verdict"] == "missed"


def test_half_the_steps_are_compared_over_the_seeds_of_both(tmp_path: Path) -> None:
    found = records(tmp_path)
    lost = found.runs.drop(index=[("half_sentiment", "prefix_tuning", 0)])
    table = targets_table(replace(found, runs=lost), tmp_path)
    assert row(table, "half", "prefix tuning", "final_sentiment")["found"].startswith("100.0 %")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 50, "learning_rate": 0.5}, "half_sentiment with the settings of final_sentiment"),
        ({"steps": 60}, "half_sentiment with half the steps of final_sentiment"),
    ],
)
def test_half_the_steps_must_be_the_only_difference(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    found = records(tmp_path)
    other = with_training(found.benchmarks["half_sentiment"], "half_sentiment", **changed)
    table = targets_table(replace(found, benchmarks={**found.benchmarks, "half_sentiment": other}), tmp_path)
    half = row(table, "half", "prompt tuning", "final_sentiment")
    assert (half["verdict"], half["found"]) == ("no record", said)


def test_a_number_that_is_missing_or_zero_gives_no_verdict_and_no_error(tmp_path: Path) -> None:
    found = records(tmp_path)
    runs = found.runs.sort_index()
    runs.loc[("final_sentiment", "prompt_tuning", 1), "metric.accuracy"] = None
    runs.loc[("final_home_commands", "lora"), "metric.exact_match"] = 0.0
    runs.loc[("final_home_commands", "prompt_tuning"), "metric.exact_match"] = 0.0
    table = targets_table(replace(found, runs=runs), tmp_path)
    for kind in ("score", "spread", "half"):
        lost = row(table, kind, "prompt tuning", "final_sentiment")
        assert (lost["verdict"], lost["found"]) == ("no record", "accuracy of prompt tuning, seed 1")
    assert row(table, "score", "prompt tuning", "final_home_commands")["found"].startswith("no share of 0 (0.0 %")
    alone = replace(found, runs=found.runs[found.runs.index.get_level_values("seed") == 0])
    assert row(targets_table(alone, tmp_path), "spread", "prompt tuning", "final_sentiment")["verdict"] == "no record"


def test_a_time_that_was_measured_with_another_config_or_method_gives_no_verdict(tmp_path: Path) -> None:
    times(tmp_path, "sentiment", 20.0, 160.0)
    file = tmp_path / "sentiment.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    steps = record["config"]["training"] | {"steps": 7}
    file.write_text(json.dumps(record | {"config": record["config"] | {"training": steps}}), encoding="utf-8")
    found = records(tmp_path / "records")
    slow = row(targets_table(found, tmp_path), "time", "prompt tuning", "sentiment")
    assert (slow["verdict"], slow["found"]) == ("no record", "sentiment.json with the shipped config")
    runs = [run | {"seed": run["seed"] + 1} for run in record["runs"]]  # three runs a side, not with the seeds asked
    file.write_text(json.dumps(record | {"runs": runs}), encoding="utf-8")
    assert row(targets_table(found, tmp_path), "time", "prompt tuning", "sentiment")["verdict"] == "no record"


def test_a_difference_that_chance_explains_is_no_reached_target(tmp_path: Path) -> None:
    table = targets_table(records(tmp_path / "records", adjusted=0.6), tmp_path)
    assert row(table, "shown", "prompt tuning", "final_home_commands")["verdict"] == "missed"


def test_without_a_record_there_is_no_verdict(tmp_path: Path) -> None:
    whole = make_benchmark(tmp_path, "sentiment", without=["lora/seed1"])
    found = make_records([replace(whole, name="final_sentiment")], {"final_sentiment": []})
    table = targets_table(found, tmp_path / "none")
    assert set(table.verdict) <= {"no record", "reached", "missed"}
    score = row(table, "score", "prompt tuning", "final_sentiment")
    assert (score["verdict"], score["found"]) == ("no record", "LoRA, seed 1 (no record)")
    assert row(table, "half", "prompt tuning", "final_sentiment")["found"] == "every record of half_sentiment"
    assert row(table, "time", "prompt tuning", "sentiment")["found"] == "every record of sentiment.json"
    assert row(table, "spread", "prompt tuning", "final_sentiment")["verdict"] == "reached", "LoRA is not asked for"
    assert "no record" in targets_markdown(table)


def test_the_targets_name_benchmarks_methods_and_metrics_that_exist() -> None:
    for target in read_config("targets")["targets"]:
        assert target["kind"] in {*KINDS, "half", "time"}
        for name in target["records"]:
            if target["kind"] == "time":
                continue
            grid = (ROOT / "configs" / "benchmarks" / f"{name}.yaml").read_text(encoding="utf-8")
            assert f"    {target['method']}:\n" in grid
            assert "of" not in target or f"    {target['of']}:\n" in grid


@pytest.mark.parametrize("name", ["time_to_quality"])
def test_recorded_times_are_read(name: str) -> None:
    folder = ROOT / "results" / name
    recorded = [file.stem for file in folder.glob("*.json")]
    home = ROOT / "results" / "benchmarks" / "sentiment"
    table = targets_table(make_records([load_benchmark(home)], {"sentiment": []}), folder)
    for benchmark, verdict in table[table.target.str.startswith("time to quality")][["benchmark", "verdict"]].values:
        assert (verdict == "no record") == (benchmark not in recorded)
