"""The plan of a comparison: compared with another formula and with simulation, and its refusals."""

from __future__ import annotations

import runpy

from helpers import ROOT, error_lines
from softprompts.config.tools import PlanConfig
from softprompts.errors import UserError
from softprompts.metrics.planning import plan_lines, power_of_rows, power_of_users, rows_needed, users_needed

import numpy
import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import power_proportions_2indep


def test_the_needed_data_have_the_power() -> None:
    for difference, disagree in ((0.05, 0.2), (0.1, 0.1), (0.02, 0.3)):
        rows = rows_needed(difference, disagree)
        assert power_of_rows(difference, disagree, rows) >= 0.8
        assert power_of_rows(difference, disagree, rows - 1) < 0.8
    users = users_needed(0.8, 0.85)
    assert power_of_users(0.8, 0.85, users) == pytest.approx(0.8, abs=0.001)
    assert users_needed(0.85, 0.8) == users


def test_users_against_a_library() -> None:
    for reference, target, users in ((0.8, 0.85, 900), (0.1, 0.2, 150), (0.5, 0.45, 2000)):
        expected = power_proportions_2indep(target - reference, reference, users, alpha=0.05, return_results=False)
        assert power_of_users(reference, target, users) == pytest.approx(expected, abs=0.01)


def test_rows_against_simulation() -> None:
    generator = numpy.random.default_rng(0)
    rows, difference, disagree = 400, 0.07, 0.2
    better, worse = (disagree + difference) / 2, (disagree - difference) / 2
    shown = 0
    for first, second, _ in generator.multinomial(rows, [better, worse, 1 - disagree], 1000):
        shown += binomtest(int(first), int(first + second)).pvalue < 0.05
    # The exact test is somewhat stricter than the normal approximation of the plan.
    assert power_of_rows(difference, disagree, rows) == pytest.approx(shown / 1000, abs=0.05)


def test_lines_say_what_is_needed_and_what_there_is() -> None:
    lines = plan_lines(0.8, 0.85, 0.2, 300)
    assert lines[1].endswith(f"{rows_needed(0.05, 0.2):,} rows, if exactly one is right on 20.0 % of them")
    assert lines[2].endswith(f"{users_needed(0.8, 0.85):,} users of each variant")
    assert lines[-1].startswith("With 300 rows the power is 4")
    assert "enough" in plan_lines(0.8, 0.85, None, 30_000)[-1]


def test_the_smallest_share_of_rows_that_differ_is_a_plan() -> None:
    """0.9 - 0.85 is 0.050000000000000044 in floating point."""
    assert PlanConfig(0.85, 0.9, disagree=0.05).disagree == 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference": 0, "target": 0.5}, r"plan\.reference: expected a share between 0 and 1, found 0"),
        ({"reference": 0.5, "target": 80}, r"plan\.target: expected a share between 0 and 1, found 80"),
        ({"reference": 0.5, "target": 0.5}, r"plan\.target: 0\.5 is also plan\.reference"),
        ({"reference": 0.5, "target": 0.6, "disagree": 0.05}, r"plan\.disagree: with these shares it is from 0\.1 to"),
        ({"reference": 0.9, "target": 0.8, "disagree": 0.5}, r"to 0\.3, found 0\.5"),
        ({"reference": 0.5, "target": 0.6, "rows": 0}, r"plan\.rows"),
    ],
)
def test_what_cannot_be_planned_is_one_line(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PlanConfig(**settings)  # type: ignore[arg-type]


def test_the_recipe_prints_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(ROOT / "recipes" / "compare.py")
    monkeypatch.setattr("sys.argv", ["compare.py", "--plan.reference", "0.8", "--plan.target", "0.85"])
    runpy.run_path(recipe, run_name="__main__")
    assert capsys.readouterr().out.startswith("To show 85.0 % against 80.0 % with a power of 80 % at a level of 5 %:")
    monkeypatch.setattr("sys.argv", ["compare.py", "--plan.reference", "0.8", "--plan.target", "8"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(recipe, run_name="__main__")
    assert ended.value.code == 2
    assert error_lines(capsys.readouterr().err) == ["error: plan.target: expected a share between 0 and 1, found 8.0"]
