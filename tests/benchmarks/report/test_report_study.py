"""The study's page: the chosen settings, the order in which candidates ended, and the cost of the sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report.study import (
    best,
    candidates,
    comparison,
    cost,
    draw_study,
    finding,
    load_study,
    overview,
    start_here,
    study_markdown,
)
from helpers import ROOT
from softprompts.reports.pages.style import close

import pytest


def candidate(rate: float, value: float | None, steps: int, **more: Any) -> dict[str, Any]:
    """Return a candidate of nine updates that made `steps` of them."""
    loss = 3.0 if value is None else abs(value)
    validations = [{"step": 0, "validation_loss": 3.0}, {"step": steps, "validation_loss": loss}]
    known = {"values": {"training.learning_rate": rate, "prompt.init_from": None}, "value": value, "best_step": steps}
    ended = {"steps": steps, "planned": 9, "left": steps < 9, "failure": None if value is not None else "became nan"}
    return known | {"validations": validations} | ended | more


def record(recipe: str = "lora", by: str = "loss") -> dict[str, Any]:
    sign = -1 if by == "loss" else 1
    made = [
        candidate(0.1, sign * 0.5, 1),
        candidate(0.2, sign * 0.25, 9),
        candidate(0.3, None, 3),
        candidate(0.4, sign * 0.75, 3),
    ]
    return {
        "recipe": recipe,
        "chosen": made[1]["values"],
        "shipped": made[0]["values"],
        "settings": {},
        "by": by,
        "seed": 100,
        "candidates": made,
        "validation_metrics": {"accuracy": 0.875},
        "cost": {"seconds_total": 600.0},
    }


def test_candidates_are_listed_as_they_came_far() -> None:
    head, _, *rows = candidates(record()).splitlines()
    assert head == "| training.learning_rate | prompt.init_from | best validation loss | at step | steps made |"
    assert rows == [
        "| 0.2 | none | 0.2500 | 9 | 9 of 9 |",
        "| 0.4 | none | 0.7500 | 3 | 3 of 9 |",
        "| 0.1 | none | 0.5000 | 1 | 1 of 9 |",
        "| 0.3 | none | given up | 3 | 3 of 9 |",
    ]
    assert cost(record()) == "4 candidates made 16 steps, 44% of the 36 steps of a full grid."
    assert best(record())["values"]["training.learning_rate"] == 0.2


def test_a_sweep_that_decides_nothing_is_set_against_the_shipped_choice() -> None:
    found = record() | {"shipped": {"training.learning_rate": 0.2, "prompt.init_from": "labels"}}
    page = study_markdown({"sentiment": {"prompt_starts": found}}, {})
    assert "The best is init_from null: 0.2500. The shipped choice, init_from labels, was given up. One seed" in page
    other = candidate(0.2, -0.5, 3) | {"values": {"training.learning_rate": 0.2, "prompt.init_from": "labels"}}
    page = study_markdown({"sentiment": {"prompt_starts": found | {"candidates": [*found["candidates"], other]}}}, {})
    assert "The shipped choice, init_from labels, came to 0.5000 after 3 of 9 steps." in page
    same = found | {"shipped": {"training.learning_rate": 0.1, "prompt.init_from": None}}
    assert "No choice is better than the shipped one" in study_markdown({"sentiment": {"prompt_starts": same}}, {})
    assert "One seed" not in study_markdown({"sentiment": {"lora": found}}, {}), "it decides a config"
    old = {key: value for key, value in found.items() if key != "shipped"}
    apart = found | {"apart": {"prompt.prompt_tuning_init_text": "Say it."}}
    page = study_markdown({"sentiment": {"prompt_starts": apart}}, {})
    assert "The shipped choice, init_from labels, prompt_tuning_init_text Say it., is not among these." in page
    assert "The shipped" not in study_markdown({"sentiment": {"prompt_starts": old}}, {})


def test_the_page_can_be_made_of_the_committed_records() -> None:
    page = study_markdown(load_study(ROOT / "results" / "study"), {})
    assert "### prefix_tuning" in page
    assert "num_virtual_tokens 40, init_from demonstrations, learning_rate 0.1" in page, "the length was not varied"


def test_a_comparison_has_a_row_a_choice() -> None:
    values = {("adamw", 0): -0.5, ("adamw", 1): -0.3, ("muon", 0): -0.2, ("muon", 1): None, ("sgd", 0): None}
    made = [
        candidate(0.1, value, 9) | {"values": {"training.optimizer": name, "run.seed": seed}}
        for (name, seed), value in values.items()
    ]
    shipped = {"training.optimizer": "adamw"}
    found = record() | {"candidates": made, "chosen": made[2]["values"], "shipped": shipped}
    assert comparison(found).splitlines()[2:] == [
        "| adamw | 0.4000 ± 0.1414 | 2 |",
        "| muon | 0.2000 (1 given up) | 2 |",
        "| sgd | given up | 1 |",
    ]
    assert overview({"optimizers": found}) == ""
    assert "| muon | 0.2000 (1 given up) | 2 |" in study_markdown({"sentiment": {"optimizers": found}}, {})


Values = dict[float, tuple[float | None, ...]]


RATE = "training.learning_rate"


def rates(*values: tuple[float | None, ...]) -> Values:
    """Return the values of the seeds for three rates."""
    return dict(zip((0.1, 0.2, 0.4), values, strict=True))


@pytest.mark.parametrize(
    ("made", "shipped", "said"),
    [
        (
            rates((-0.5, -0.4), (-0.3, -0.2), (-0.9, -0.8)),
            0.1,
            # Two rivals, each in one of six orders.
            "the shipped choice, learning_rate 0.1. By chance alone, this happens in at most 33 % of cases.",
        ),
        (
            rates((-0.5, -0.3), (-0.4, -0.2), (-0.9, -0.8)),
            0.1,
            "No difference shown: the seeds of learning_rate 0.2 and",
        ),
        (
            rates((-0.2, -0.2), (-0.3, -0.3), (-0.9, -0.9)),
            0.2,
            "The best learning_rate is at an edge of what was tried.",
        ),
        (rates((-0.5, -0.5), (-0.3, -0.3), (-0.9, -0.9)), 0.2, "The shipped choice, learning_rate 0.2, is the best."),
        (
            rates((-0.5, -0.5), (-0.3, None), (-0.9, -0.9)),
            0.3,
            "The best is learning_rate 0.1; the shipped choice, learn",
        ),
    ],
)
def test_a_comparison_says_what_helps(made: Values, shipped: float, said: str) -> None:
    tried = [
        candidate(rate, value, 9) | {"values": {"training.learning_rate": rate, "run.seed": seed}}
        for rate, values in made.items()
        for seed, value in enumerate(values)
    ]
    found = record() | {"candidates": tried, "chosen": tried[0]["values"], "shipped": {RATE: shipped}}
    assert said in finding(found)


def test_a_comparison_of_seeds_decides_the_shipped_config() -> None:
    tried = [
        candidate(0.1, value, 9) | {"values": {RATE: rate, "run.seed": seed}}
        for rate, values in ((0.1, (-0.3, -0.4)), (0.2, (-0.2, -0.9)))
        for seed, value in enumerate(values)
    ]
    seeds = record() | {"candidates": tried, "chosen": tried[2]["values"], "shipped": {RATE: 0.3}}
    page = study_markdown({"sentiment": {"lora": record(), "lora_seeds": seeds}}, {})
    assert "The best mean decides the shipped config: learning_rate 0.1. 4 candidates" in page
    assert "not among these" not in page
    assert "| LoRA | learning_rate 0.1, init_from null |" in page.partition("## sentiment")[0]


def test_a_shipped_config_that_differs_in_the_screens_own_settings_is_none_of_the_candidates() -> None:
    tried = [
        candidate(0.1, value, 9) | {"values": {RATE: rate, "run.seed": seed}}
        for rate, value in ((0.1, -0.4), (0.2, -0.3), (0.4, -0.5))
        for seed in (0, 1)
    ]
    found = record() | {"candidates": tried, "chosen": tried[0]["values"], "shipped": {RATE: 0.2}}
    assert finding(found) == "The shipped choice, learning_rate 0.2, is the best."
    assert finding(found | {"apart": {"prefix.num_virtual_tokens": 32}}) == (
        "The best is learning_rate 0.2; the shipped choice, learning_rate 0.2, num_virtual_tokens 32, is not among "
        "these."
    )


@pytest.mark.parametrize("decays", [(0.0, 0.01, 0.1), (0.01, 0.1)])
def test_zero_and_one_of_two_values_are_no_edge(decays: tuple[float, ...]) -> None:
    made = [
        candidate(0.1, -1.0 - decay, 9) | {"values": {"training.weight_decay": decay, "run.seed": seed}}
        for decay in decays
        for seed in (0, 1)
    ]
    shipped = {"training.weight_decay": 0.0}
    assert "edge" not in finding(record() | {"candidates": made, "chosen": made[0]["values"], "shipped": shipped})


def test_the_page_begins_with_what_was_chosen() -> None:
    study = {"docstrings": {"lora": record(), "starts": record("prompt_tuning")}, "sentiment": {"lora": record()}}
    head, advice, table = start_here(study)
    assert head == "## Start here"
    assert "validation rows" in advice
    assert table.splitlines()[2:] == [
        "| LoRA | learning_rate 0.2, init_from null | learning_rate 0.2, init_from null |"
    ]
    assert start_here({"docstrings": {"starts": record("prompt_tuning")}}) == []


def test_the_overview_has_a_row_a_sweep() -> None:
    head, _, *rows = overview({"lora": record(), "starts": record("prompt_tuning")}).splitlines()
    assert head == "| sweep | chosen | best validation loss | accuracy, % | candidates | time |"
    assert rows == [
        "| LoRA | learning_rate 0.2, init_from null | 0.2500 | 87.5 | 4 | 10 min |",
        "| starts | learning_rate 0.2, init_from null | 0.2500 | 87.5 | 4 | 10 min |",
    ]
    assert "| 25.0 |" in overview({"lora": record(by="accuracy")})


def test_the_page_has_each_task_with_its_figure(tmp_path: Path) -> None:
    for task, name, kept in (("sentiment", "lora", record()), ("docstrings", "starts", record("prompt_tuning"))):
        (tmp_path / task).mkdir()
        (tmp_path / task / f"{name}.json").write_text(json.dumps(kept), encoding="utf-8")
    study = load_study(tmp_path)
    assert list(study) == ["docstrings", "sentiment"]
    drawn = draw_study(study)
    assert list(drawn) == ["sentiment"], "only what decides a config is drawn"
    (line,) = drawn["sentiment"].figure.axes[0].lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 9], [3.0, 0.25])
    close([*drawn.values()])
    page = study_markdown(study, {"sentiment": "../x.png"})
    assert page.index("## docstrings") < page.index("### starts") < page.index("## sentiment") < page.index("### lora")
    assert "(../x.png)" in page
