"""The business case against hand computation, and its errors."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean

from benchmarks.business.__main__ import main, table, what_matters, when_it_pays
from benchmarks.business.case import CaseConfig, Method, advantage, best_of, break_even, month, recorded, sensitivity
from helpers import ROOT
from softprompts.errors import UserError

import pytest
import yaml

TODAY = Method("few_shot", score=0.8, deviation=0.01, training=0.0, answer=3.6, prompt_tokens=300, answer_tokens=1)
TUNED = Method(
    "prompt_tuning", score=0.9, deviation=0.02, training=360.0, answer=1.8, prompt_tokens=30, answer_tokens=1
)
CASE = CaseConfig(
    requests_a_month=1000, minutes_saved=2, cost_a_minute=1, cost_of_error=3, machine_an_hour=10, tuning_runs=5,
    tunings_a_month=2, hours_of_work=1,
)  # fmt: skip


def test_a_month_by_hand() -> None:
    today, tuned = month(CASE, TODAY), month(CASE, TUNED)
    assert (today.tuning, today.serving, today.errors, today.saved) == pytest.approx((0, 10, 600, 1600))
    assert tuned.tuning == pytest.approx(2 * (5 * 1 + 60)), "five runs of a tenth of an hour at 10, and an hour's work"
    assert (tuned.serving, tuned.errors, tuned.saved) == pytest.approx((5, 300, 1800))
    assert tuned.net == pytest.approx(1800 - 130 - 5 - 300)


def test_at_the_break_even_both_return_the_same() -> None:
    found = break_even(CASE, TUNED, TODAY)
    assert found == pytest.approx((130 / ((1495 - 990) / 1000), math.inf))
    assert found
    there = CaseConfig(**{**vars(CASE), "requests_a_month": found[0]})
    assert month(there, TUNED).net == pytest.approx(month(there, TODAY).net)
    assert break_even(CASE, TODAY, TUNED) == pytest.approx((0, found[0])), (
        "without tuning it is cheaper for few requests"
    )
    assert break_even(CASE, replace(TUNED, score=0.1), TODAY) is None, "a worse and dearer method never pays"
    assert break_even(CASE, TUNED, replace(TUNED, name="x", score=0.5)) == (0, math.inf)


def test_a_method_may_beat_the_present_one_and_lose_money(capsys: pytest.CaptureFixture[str]) -> None:
    """With an error at 3, each of these answers loses money: no number of them pays for the tuning."""
    bad, poor = replace(TODAY, name="bad", score=0.1), replace(TUNED, name="poor", score=0.5)
    assert break_even(CASE, poor, bad) == pytest.approx((130 / 2.005, math.inf))
    assert break_even(CASE, poor, None) is None
    assert break_even(CASE, replace(poor, training=0.0), None) is None
    assert break_even(CASE, TUNED, None) == pytest.approx((130 / 1.495, math.inf))
    assert break_even(CASE, TODAY, None) == (0, math.inf)
    assert when_it_pays(CASE, [bad, poor]) == [
        "bad returns more than it costs at no number of requests.",
        "poor returns more than it costs at no number of requests.",
        "poor returns more than bad from 65 requests a month.",
    ]
    said = what_matters(CASE, [bad, poor])
    assert "poor returns +1,875 a month compared with bad. Its own net return is -635. Without a model, it is 0" in said
    assert "| requests_a_month | +872 | +3,880 | -382 | -1,140 |" in said
    assert "Without a model" not in what_matters(CASE, [bad, TUNED])


def test_the_shipped_case_of_tickets_names_the_methods_that_lose_money(capsys: pytest.CaptureFixture[str]) -> None:
    tree = yaml.safe_load((ROOT / "configs" / "business" / "support.yaml").read_text(encoding="utf-8"))
    main(CaseConfig(**tree["case"] | {"answer_tokens": 25}))
    said = capsys.readouterr().out
    assert "few_shot returns more than it costs at no number of requests.\n" in said
    assert "prompt_tuning returns more than it costs at no number of requests.\n" in said
    assert "lora returns more than it costs from " in said


@pytest.mark.parametrize("name", ["requests_a_month", "cost_a_minute", "machine_an_hour", "hours_of_work"])
def test_a_volume_and_prices_of_zero_are_computed(name: str) -> None:
    free = replace(CASE, **{name: 0})
    assert month(free, TUNED).net == pytest.approx(advantage(free, TUNED, None))
    if name == "requests_a_month":
        assert (month(free, TODAY).net, month(free, TUNED).net) == (0, -130)
        assert break_even(free, TUNED, TODAY) == break_even(CASE, TUNED, TODAY)
    assert (name, advantage(free, TUNED, TODAY), advantage(free, TUNED, TODAY)) in sensitivity(free, TUNED, TODAY)
    assert what_matters(free, [TODAY, TUNED])


def test_the_lines_agree_with_the_money(capsys: pytest.CaptureFixture[str]) -> None:
    """With few requests, a method without tuning returns more than one that is tuned each month."""
    main(CaseConfig(methods=["lora", "few_shot"], requests_a_month=100))
    said = capsys.readouterr().out
    assert "few_shot returns more than lora up to " in said
    assert "few_shot returns +" in said
    assert "| hours_of_work |" in said


def test_one_deviation_is_no_better_than_a_perfect_model_and_needs_two_seeds() -> None:
    near, bad = replace(TUNED, score=0.98, deviation=0.03), replace(TUNED, name="bad", score=0.01, deviation=0.03)
    rows = table(CASE, [near, bad, replace(TUNED, deviation=None)]).splitlines()[-3:]
    perfect, useless = (f"{month(CASE, near, score).net:,.0f}" for score in (1.0, 0.0))
    assert rows[0].endswith(f"{month(CASE, near, 0.95).net:,.0f} to {perfect} |")
    assert f" {useless} to " in rows[1]
    assert "| 90.0 ± - % |" in rows[2]
    assert rows[2].endswith("| - |")


def test_a_single_seed_has_no_deviation(tmp_path: Path) -> None:
    source = ROOT / "results" / "benchmarks" / "sentiment"
    for name in ("grid.json", "lora/seed0.json", "lora/seed0.probes.json"):
        (tmp_path / "sentiment" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, tmp_path / "sentiment" / name)
    assert recorded("sentiment", "lora", records=tmp_path).deviation is None


def test_a_request_takes_the_time_of_its_own_answer() -> None:
    """The recorded latency is that of 32 forced tokens; choices are scored in one pass."""
    files = sorted((ROOT / "results" / "benchmarks" / "sentiment" / "few_shot").glob("seed*.probes.json"))
    latencies = [json.loads(file.read_text(encoding="utf-8"))["latency"] for file in files]
    first, whole = (mean(one[key] for one in latencies) / 1000 for key in ("first_token_ms", "answer_ms"))
    found = recorded("sentiment", "few_shot")
    assert (found.answer_tokens, found.answer) == (1, pytest.approx(first))
    assert recorded("sentiment", "few_shot", answer_tokens=32).answer == pytest.approx(whole)
    longer = recorded("sentiment", "few_shot", answer_tokens=63).answer
    assert longer == pytest.approx(2 * whole - first), "each further token takes the same time"


@pytest.mark.slow
@pytest.mark.bundled
def test_a_written_answer_has_the_tokens_of_the_targets() -> None:
    found = recorded("support", "lora", "queue_accuracy")
    assert 20 < found.answer_tokens < 30, 'a ticket, such as {"queue": "cards", "priority": "low", ...}'


def test_what_matters_most_comes_first() -> None:
    rows = sensitivity(CASE, TUNED, TODAY)
    spans = [abs(high - low) for _, low, high in rows]
    assert spans == sorted(spans, reverse=True)
    low, high = next((low, high) for name, low, high in rows if name == "requests_a_month")
    assert (low, high) == pytest.approx((505 / 2 - 130, 505 * 2 - 130))
    assert best_of(CASE, [TODAY, TUNED]) == TUNED


def test_the_shipped_case_has_every_number() -> None:
    tree = yaml.safe_load((ROOT / "configs" / "business" / "sentiment.yaml").read_text(encoding="utf-8"))
    assert CaseConfig(**tree["case"]) == CaseConfig(), "its comments say what the defaults are"
    assert set(tree["case"]) == set(vars(CaseConfig()))


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "business").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_case_names_all_numbers_and_recorded_methods(file: Path) -> None:
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))["case"]
    assert set(tree) == set(vars(CaseConfig()))
    case = CaseConfig(**tree)
    assert (ROOT / "configs" / case.task / "readiness.yaml").is_file() or case.task == "sentiment"
    for method in case.methods:
        assert recorded(case.task, method, case.metric, ROOT / "results" / "benchmarks", 32).score > 0


def test_it_is_printed_from_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    main(CaseConfig())
    said = capsys.readouterr().out
    lora = recorded("sentiment", "lora")
    assert lora.deviation is not None, "it has three seeds"
    assert "; an answer counts as 1 token\n" in said
    assert f"| lora | {100 * lora.score:.1f} ± {100 * lora.deviation:.1f} % |" in said
    assert "prompt_tuning returns more than few_shot from " in said
    assert "With half or twice of one number:" in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["lora"]}, r"case\.methods: name at least two"),
        ({"cost_of_error": -1}, r"case\.cost_of_error: expected 0 or more, found -1"),
        ({"requests_a_month": -1}, r"case\.requests_a_month: expected 0 or more, found -1"),
        ({"tuning_runs": 0}, r"case\.tuning_runs: expected a number above 0, found 0"),
        ({"answer_tokens": 0}, r"case\.answer_tokens: expected 1 or more, found 0"),
    ],
)
def test_settings_without_sense_are_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CaseConfig(**settings)  # type: ignore[arg-type]


def test_a_score_that_is_no_share_of_right_answers_is_refused() -> None:
    with pytest.raises(UserError, match=r"case\.metric: the first score of docstrings is rouge_l, .* of rouge_l, "):
        recorded("docstrings", "lora")
    assert 0 < recorded("docstrings", "lora", "style_rate", answer_tokens=32).score < 1
    with pytest.raises(
        UserError, match=r'case\.metric: docstrings has no score "stile_rate" \(did you mean "style_rate"'
    ):
        recorded("docstrings", "lora", "stile_rate")


def test_what_is_not_recorded_is_named() -> None:
    with pytest.raises(UserError, match=r'case\.task: no benchmark of "sentimnt" is recorded \(did you mean "sentim'):
        recorded("sentimnt", "lora")
    with pytest.raises(UserError, match=r'case\.methods: "lore" is not recorded on sentiment \(did you mean "lora"'):
        recorded("sentiment", "lore")


def test_a_record_without_latency_is_not_called_missing(tmp_path: Path) -> None:
    advice = "add latency to the probes .* and run make bench GRID="
    with pytest.raises(
        UserError, match=rf"case\.task: the records of campaign have no latency; {advice}campaign, or .*support"
    ):
        recorded("campaign", "few_shot")
    source = ROOT / "results" / "benchmarks" / "sentiment"
    for name in ("grid.json", "lora/seed0.json", "lora/seed0.probes.json", "few_shot/seed0.json"):
        (tmp_path / "sentiment" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, tmp_path / "sentiment" / name)
    (tmp_path / "sentiment" / "few_shot" / "seed0.probes.json").write_text('{"transfer": []}', encoding="utf-8")
    with pytest.raises(
        UserError, match=r"case\.methods: the record of few_shot on sentiment has no latency; .*: lora$"
    ):
        recorded("sentiment", "few_shot", records=tmp_path)
