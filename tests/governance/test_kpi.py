"""The metric of a plan: readiness and governance find the same number, by its own name or by that of its metric."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from helpers import ROOT
from made_governance import Made
from made_readiness import PLAN, own_metric
from made_result import make_result
from softprompts.config.methods import HardPromptConfig
from softprompts.errors import UserError
from softprompts.governance.evidence import Evidence, Rows, score_of
from softprompts.governance.record import write_governance
from softprompts.metrics.scoring import Interval, load_metrics, reported
from softprompts.readiness import worth
from softprompts.readiness.plan import Plan, read_plan
from softprompts.readiness.settings import read_recipe
from softprompts.tasks.task import load_task

import pytest

SHIPPED = {
    "analytics": "chrf",
    "campaign": "voice_rate",
    "compliance": "cost_score",
    "docstrings": "style_rate",
    "localisation": "chrf",
    "own_data": "accuracy",
    "product": "accuracy",
    "support": "exact_match",
}


def test_every_shipped_plan_is_known() -> None:
    assert {file.parent.name for file in ROOT.glob("configs/*/readiness.yaml")} == set(SHIPPED)


@pytest.mark.parametrize(("use", "number"), SHIPPED.items())
def test_both_recipes_find_the_number_of_a_shipped_plan(use: str, number: str, tmp_path: Path) -> None:
    """A run's scores are the numbers that its metrics report, as in a true record."""
    folder = ROOT / "configs" / use
    plan = read_plan(str(folder / "readiness.yaml"))
    config = folder / "prompt_tuning.yaml"
    settings = read_recipe(str(config))
    task = load_task(settings.task)
    numbers = reported(load_metrics(task.metrics, task.schema, task.metric_data), [task.splits["train"][0].target])
    assert number in numbers
    result = make_result(
        recipe="hard_prompt",
        settings={
            "model": {"name_or_path": settings.model.name_or_path},
            "task": asdict(settings.task),
            "evaluation": {"split": "test"},
            "hard": asdict(HardPromptConfig([settings.task.prompt])),
        },
        notes={"chosen": 0, "wordings": [{"prompt": settings.task.prompt}]},
        metrics={name: Interval(0.5, 0.4, 0.6, 300) for name in numbers},
        data={"licence": "", "splits": task.fingerprint()},
    )
    record = tmp_path / "result.json"
    record.write_text(json.dumps(asdict(result)), encoding="utf-8")
    run = Evidence(tmp_path, result, "", [], "none", 0)
    for spelt in (plan, replace(plan, metric=number)):
        found = worth.metric_name(spelt, task, str(config))
        assert found == number == score_of(spelt, run, Rows(task, ""))
        assert isinstance(worth.baseline_of(settings, task, found, str(record)), worth.Baseline)


def kpi(metric: str) -> dict[str, Any]:
    return PLAN["kpi"] | {"metric": metric}


@pytest.mark.parametrize("spelt", ["lengths", "same"])
def test_a_metric_of_ones_own_has_its_first_number(spelt: str, tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.task = replace(made.task, metrics=[own_metric(tmp_path)])
    scores = {"same": Interval(0.95, 0.9, 1.0, 80), "longer": Interval(0.5, 0.4, 0.6, 80)}
    home = made.run(metrics=scores)
    made.write_plan(kpi=kpi(spelt))
    task = load_task(made.task)
    assert worth.metric_name(read_plan(str(made.plan)), task, "c.yaml") == "same"
    folder = write_governance(made.asked(home)).parent
    tree = json.loads((folder / "governance.json").read_text(encoding="utf-8"))
    assert tree["plan"]["metric"] == "same"
    assert "The plan asks for same of 90.0 % or more. The run has 95.0 %" in str(tree["parts"])
    assert "It makes mistakes. [answer `quality`]" in tree["transparency_note"], "it states no share of right answers"


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.95, 0.92, 0.98, "reached"),
        (0.95, 0.9, 0.98, "reached"),
        (0.92, 0.86, 0.97, "reached, but not shown: the interval begins below the target"),
        (0.89, 0.84, 0.95, "not reached"),
        (1.0, 1.0, 1.0, "reached, but there is no interval to show it"),
    ],
)
def test_a_target_is_shown_by_the_whole_interval(
    value: float, low: float, high: float, said: str, tmp_path: Path
) -> None:
    made = Made(tmp_path)
    home = made.run(metrics={"accuracy": Interval(value, low, high, 80)})
    text = (write_governance(made.asked(home)).parent / "model_card.md").read_text(encoding="utf-8")
    assert f", 80 rows): {said}. Today's process reaches 60.0 %." in text


def test_a_metric_that_fails_or_that_the_run_lacks_is_one_line(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.task = replace(made.task, metrics=[own_metric(tmp_path, "raise OSError('broken')")])
    settings = {"model": {"name_or_path": "org/base"}, "task": asdict(made.task)}
    result = make_result(settings=settings)
    run = Evidence(tmp_path, result, "", [], "none", 0)

    def plan(metric: str) -> Plan:
        made.write_plan(kpi=kpi(metric))
        return read_plan(str(made.plan))

    with pytest.raises(
        UserError, match=r'kpi\.metric: the numbers of "lengths" are not known: .*; name a score of the'
    ):
        score_of(plan("lengths"), run, Rows(None, "gone"))
    with pytest.raises(UserError, match=r'kpi\.metric: the run has no score "acuracy" \(did you mean "accuracy"\?\)'):
        score_of(plan("acuracy"), run, Rows(None, "gone"))
    with pytest.raises(UserError, match=r'kpi\.metric: the run has no score "zzz" \(valid: accuracy\)'):
        score_of(plan("zzz"), run, Rows(None, "gone"))
