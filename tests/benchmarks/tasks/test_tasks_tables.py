"""The README's tables of the tasks, from records made up here."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.tables import tasks_table
from made_result import make_result
from softprompts.metrics.scoring import Interval
from softprompts.runs.record import Result

COST = {
    "seconds_training": 61.4,
    "training_tokens_per_second": 512.6,
    "peak_memory_gib": 1.94,
    "adapter_bytes": 46080.0,
}


def record(recipe: str, **changes: Any) -> Result:
    """Return the record of a run on the movies of sentiment."""
    made = {
        "settings": {"task": {"where": {"domain": ["movies"]}}},
        "cost": COST,
        "notes": {"saved": "adapter"},
        "environment": {"hardware": {"threads": 2}},
    }
    return make_result(**made | {"recipe": recipe} | changes)


def rows(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table, without its rule."""
    lines = [line for line in table.splitlines() if not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_says_what_a_recipe_reached_and_cost() -> None:
    head, majority, row = rows(tasks_table([[record("prefix_tuning")]]))
    assert head == [
        "sentiment (movies), 600 test rows",
        "accuracy",
        "trained",
        "saved",
        "training (threads)",
        "tokens/s",
        "memory",
    ]
    assert majority[:2] == ["majority class", "51.0 (47.0 to 55.0)"]
    expected = ["prefix tuning", "85.0 (81.2 to 90.0)", "11,520", "45 KiB", "61 s (2)", "513", "1.9 GiB"]
    assert row == expected


def test_a_whole_model_is_shown_in_mebibytes() -> None:
    *_, row = rows(tasks_table([[record("full_finetuning", cost=COST | {"adapter_bytes": 513.1 * 2**20})]]))
    assert row[3] == "513.1 MiB"


def test_a_written_prompt_trains_and_saves_nothing() -> None:
    settings = {"task": {"where": {}}, "hard": {"shots": 8}}
    hard = record("hard_prompt", settings=settings, training={}, notes={"wordings": [1, 2, 3]}, baselines={})
    head, row = rows(tasks_table([[hard]]))
    assert head[0] == "sentiment, 600 test rows"
    assert row == ["hard prompt, 8-shot, best of 3", "85.0 (81.2 to 90.0)", "0", "", "", "", "1.9 GiB"]


def test_a_multitask_row_shows_the_rows_that_the_others_were_tested_on() -> None:
    tasks = {"movies": {"accuracy": 0.875, "rows": 1000.0}, "tweets": {"accuracy": 0.5, "rows": 400.0}}
    several = record("multitask_prompt_tuning", settings={"task": {"where": {}}}, notes={"tasks": tasks})
    *_, row = rows(tasks_table([[record("lora"), several]]))
    assert row[:2] == ["multitask prompt tuning, 2 tasks", "87.5"]


def test_a_multitask_row_has_its_interval_where_all_saw_the_same_rows() -> None:
    everywhere = {"task": {"where": {}}}
    metrics = {"accuracy": Interval(0.7, 0.65, 0.75, 600)}
    several = record(
        "multitask_prompt_tuning", settings=everywhere, metrics=metrics, notes={"tasks": {"a": {}, "b": {}}}
    )
    *_, row = rows(tasks_table([[record("lora", settings=everywhere), several]]))
    assert row[1] == "70.0 (65.0 to 75.0)"


def test_a_task_without_records_has_no_table() -> None:
    assert tasks_table([[], []]) == ""
    assert tasks_table([[], [record("lora")]]).startswith("| sentiment (movies)")
