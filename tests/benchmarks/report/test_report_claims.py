"""The claims card: verdicts follow from the records, and a missing record gives no verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import claims
from benchmarks.report.claims import (
    SOFT,
    TASKS,
    WEIGHTS,
    Section,
    Verdict,
    by_seeds,
    card_markdown,
    judge,
    load_card,
    make_card,
    words_table,
)
from benchmarks.report.frame import Records, make_records
from benchmarks.report.page import Contents, render_page, summary
from benchmarks.report.tables import overview_table
from made_benchmark import make_benchmark, records_of
from softprompts.reports.pages.tables import Measure

import pytest


def records(folder: Path, changes: dict[str, dict[str, Any]] | None = None, **compared: float) -> Records:
    """Return records of the three tasks; `changes` are arguments of `make_benchmark`, by task."""
    return records_of(*(make_benchmark(folder, task, **(changes or {}).get(task, {})) for task in TASKS), **compared)


def again(found: Records) -> Records:
    """Return records after a change of their benchmarks."""
    return make_records(list(found.benchmarks.values()), found.comparisons)


def verdicts(card: list[Section]) -> list[Verdict]:
    return [v for section in card for claim in section.claims for v in claim.verdicts]


def verdict(card: list[Section], words: str, task: str) -> Verdict:
    """Return a task's verdict on the claim with these words in it."""
    (claim,) = [c for section in card for c in section.claims if words in c.statement]
    (found,) = [v for v in claim.verdicts if v.task == task]
    return found


def verdict_of(found: Records, words: str, task: str) -> Verdict:
    """Return the same from a card with only this claim, which is faster."""
    only = [
        section
        | {"claims": [c | {"tasks": [task]} for c in section["claims"] if words in c["statement"]], "tables": []}
        for section in load_card()
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "load_card", lambda: only)
        return verdict(make_card(found), words, task)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Section]:
    """The card with complete records."""
    return make_card(records(tmp_path_factory.mktemp("claims")))


def test_every_claim_is_judged_where_all_is_recorded(whole: list[Section]) -> None:
    assert [len(s.claims) for s in whole] == [4, 3, 4, 3, 2, 2]
    assert [v.missing for v in verdicts(whole)] == [()] * 36
    assert None not in [v.word for v in verdicts(whole)]
    expected = {
        "valid JSON": "holds",
        "exact command more often than a hard": "holds",
        "exact command more often than LoRA": "does not hold",
        "With sampling, predictions": "holds",
        "house style more often, and overlap": "does not hold",
        "fewer parameters": "holds",
        "fewer bytes": "holds",
        "less processor time": "does not hold",
        "less memory": "holds",
        "loss on general text": "holds",
        "restores the base model exactly": "holds",
        "fewer tokens per request": "holds",
    }
    for words, word in expected.items():
        assert verdict(whole, words, "docstrings" if "style" in words else "home_commands").word == word


def test_a_verdict_has_the_figures_of_the_records(whole: list[Section]) -> None:
    refuted = verdict(whole, "exact command more often than LoRA", "home_commands")
    assert str(refuted) == ("prompt tuning: does not hold; prefix tuning: does not hold; P-tuning: does not hold")
    assert refuted.findings.iloc[0].to_dict() == {
        "measure": "exact_match",
        "method": "P-tuning: 68.0 %",
        "against": "full fine-tuning: 82.0 %",
        "difference": "−14.0 points",
        "95 % interval": "−19.0 to −9.0",
        "adjusted p": "< 0.001",
        "verdict": "does not hold",
    }
    slower = verdict(whole, "less processor time", "sentiment")
    assert slower.words == {
        "prompt tuning": "does not hold",
        "prefix tuning": "holds",
        "P-tuning": "holds",
    }
    assert slower.findings.iloc[0].tolist() == [
        *("processor time of training", "prompt tuning: 841 (840 to 842) s", "LoRA: 551 (550 to 552) s"),
        *("higher in every seed", "does not hold"),
    ]


def test_a_p_that_is_not_small_shows_no_difference(tmp_path: Path) -> None:
    found = verdict_of(records(tmp_path, adjusted=0.1), "exact command more often than LoRA", "home_commands")
    assert (found.word, set(found.findings["verdict"])) == ("no difference shown", {"no difference shown"})


def test_one_comparison_against_it_is_enough_for_its_method_and_comes_first(tmp_path: Path) -> None:
    found = verdict_of(records(tmp_path, prefix_tuning=0.4), "exact command more often than a hard", "home_commands")
    assert found.words == {"prompt tuning": "holds", "prefix tuning": "does not hold", "P-tuning": "holds"}
    assert found.word == "does not hold"
    assert found.findings["method"].iloc[0].startswith("prefix tuning")


def test_p_is_adjusted_for_the_comparisons_of_the_claim_and_task_alone(tmp_path: Path) -> None:
    # Two metrics, three soft prompts, two hard prompts: 12 comparisons, 6 per metric. Holm multiplies equal p.
    card = make_card(records(tmp_path, adjusted=0.05))  # p 0.005 each
    two, one = (
        verdict(card, words, "home_commands") for words in ("valid JSON", "exact command more often than a hard")
    )
    assert (set(two.findings["adjusted p"]), len(two.findings)) == ({"0.060"}, 12)
    assert (set(one.findings["adjusted p"]), len(one.findings)) == ({"0.030"}, 6)
    assert (two.word, one.word) == ("no difference shown", "holds")


def test_the_matrix_has_a_word_a_method(tmp_path: Path) -> None:
    found = records(tmp_path, {"docstrings": {"without": ["p_tuning/seed1"]}}, prefix_tuning=0.4)
    matrix = words_table(make_card(found)).set_index("claim")
    assert list(matrix) == ["prompt tuning", "prefix tuning", "P-tuning", "LoRA", "full fine-tuning"]
    assert matrix.loc["Soft prompts give the exact command more often than a hard prompt."].tolist() == [
        *("holds", "does not hold", "holds", "", ""),
    ]
    assert matrix.loc["Soft prompts train fewer parameters than LoRA and full fine-tuning."].tolist() == [
        *["holds (sentiment, home_commands); no verdict (docstrings)"] * 3,
        *("", ""),
    ]
    assert set(matrix.loc["Soft prompts follow the house style more often than a hard prompt."]) == {"no verdict"}


@pytest.mark.parametrize("change", [{"without": ["p_tuning/seed1"]}, {"failed": {"p_tuning/seed1": "no space"}}])
def test_it_refuses_to_speak_where_a_run_is_missing(tmp_path: Path, change: dict[str, Any]) -> None:
    card = make_card(records(tmp_path, {"home_commands": change}))
    found = verdict(card, "exact command more often than a hard", "home_commands")
    gap = f"P-tuning, seed 1 ({'failed: no space' if 'failed' in change else 'no record'})"
    assert (found.word, found.missing, len(found.findings)) == (None, (gap,), 0)
    silent = [v for v in verdicts(card) if v.word is None]
    assert {v.task for v in silent} == {"home_commands"}
    assert card_markdown(card).count(f"**home_commands**: no verdict; missing: {gap}.") == len(silent) == 14


def test_a_missing_run_of_a_method_that_a_claim_does_not_name_does_not_silence_it(tmp_path: Path) -> None:
    card = make_card(records(tmp_path, {"home_commands": {"without": ["full_finetuning/seed0"]}}))
    assert verdict(card, "valid JSON", "home_commands").word == "holds"
    assert verdict(card, "restores the base model exactly", "home_commands").word == "holds"
    assert verdict(card, "fewer bytes", "home_commands").word is None


@pytest.mark.slow
def test_it_refuses_to_speak_without_probes_comparisons_a_metric_a_method_or_a_task(tmp_path: Path) -> None:
    card = make_card(records(tmp_path / "probes", {"docstrings": {"probes": False}}))
    assert verdict(card, "loss on general text", "docstrings").missing[0] == (
        "change of loss on general text, attached of prompt tuning, seeds 0, 1, 2"
    )
    for words in ("score on other tasks", "restores the base model exactly", "fewer tokens", "answered sooner"):
        assert verdict(card, words, "docstrings").word is None
    found = records(tmp_path / "whole")
    card = make_card(make_records(list(found.benchmarks.values()), {}))
    pair = "a paired comparison of prompt tuning with hard prompt, zero-shot by valid_json"
    assert verdict(card, "valid JSON", "home_commands").missing[0] == pair
    del found.benchmarks["home_commands"].cells["zero_shot"][2].result.metrics["valid_json"]
    assert verdict(make_card(again(found)), "valid JSON", "home_commands").missing[0] == pair
    found.benchmarks["sentiment"].grid["methods"].pop("lora")
    assert verdict(make_card(again(found)), "fewer bytes", "sentiment").missing == ("lora (not in the grid)",)
    card = make_card(records_of())
    assert {v.word for v in verdicts(card)} == {None}
    assert verdict(card, "fewer bytes", "docstrings").missing == ("every record of docstrings",)


def test_answers_drawn_otherwise_than_claimed_do_not_count(tmp_path: Path) -> None:
    found = records(tmp_path)
    found.benchmarks["home_commands"].cells["lora"][0].probes["sampling"]["temperature"] = 1.0
    assert verdict_of(again(found), "With sampling, predictions", "home_commands").missing == (
        "agreement of 5 samples at temperature 0.7 of LoRA, seed 0",
        "exact_match of predictions sampled at temperature 0.7 of LoRA, seed 0",
    )


def test_times_and_memory_of_different_machines_are_not_compared(tmp_path: Path) -> None:
    """Bytes are compared on any machines. Memory depends on the kind, not on the model of a processor."""
    found = records(tmp_path)
    cells = found.benchmarks["sentiment"].cells["lora"]
    hardware = cells[0].result.environment["hardware"]

    def on(**changed: Any) -> tuple[list[str], list[str], list[str]]:
        made = cells[0].result.environment | {"hardware": hardware | changed}
        cells[0] = replace(cells[0], result=replace(cells[0].result, environment=made))
        asked = ("less processor time", "less memory", "save fewer bytes")
        return tuple(list(verdict_of(again(found), words, "sentiment").missing) for words in asked)

    times, memory, size = on(processor="another")
    name = "processor time of training on one kind of machine, not on "
    assert (times, memory, size) == ([f"{name}another with 2 threads and made up with 2 threads"], [], [])
    times, memory, size = on(gpus=["a card"])
    assert times == [f"{name}a card and made up with 2 threads"]
    assert memory == ["peak memory on one kind of machine, not on a card and a processor"]
    assert size == []
    found.benchmarks["sentiment"].cells["few_shot"][1].probes["environment"] = {"hardware": hardware | {"threads": 1}}
    first, _ = verdict_of(again(found), "is answered sooner", "sentiment").missing
    assert first.endswith("not on made up with 1 thread and made up with 2 threads")


@pytest.mark.parametrize("where", ["general", "home_commands"])
def test_the_smallest_change_when_detached_is_told(tmp_path: Path, where: str) -> None:
    found = records(tmp_path)
    forgetting = found.benchmarks["docstrings"].cells["lora"][1].probes["forgetting"]
    measured = forgetting["general"] if where == "general" else forgetting["tasks"][where]
    measured["detached"] += 1e-6
    told = verdict_of(again(found), "restores the base model exactly", "docstrings")
    assert told.findings.to_numpy().tolist() == [
        ["LoRA", "up to 1e-06", "9", "does not hold"],
        *([method, "exactly zero", "9", "holds"] for method in ("prompt tuning", "prefix tuning", "P-tuning")),
    ]


def test_scores_on_other_tasks_may_be_losses_or_accuracies(whole: list[Section]) -> None:
    findings = verdict(whole, "score on other tasks", "docstrings").findings
    assert len(findings) == 2 * len(SOFT) * len(WEIGHTS)
    assert set(findings["verdict"]) == {"holds"}
    rows = findings.to_numpy().tolist()
    assert [
        *("change of accuracy on sentiment, attached", "prompt tuning: −7.7 (−8.7 to −6.7) points"),
        *("LoRA: −27.7 (−28.7 to −26.7) points", "+20.0 points", "+15.0 to +25.0", "0.001", "holds"),
    ] in rows
    assert [
        *("change of loss on home_commands, attached", "prompt tuning: +0.210 (+0.200 to +0.220) nats per token"),
        *(
            "LoRA: +0.810 (+0.800 to +0.820) nats per token",
            "−0.600 nats per token",
            "−0.650 to −0.550",
            "0.001",
            "holds",
        ),
    ] in rows


@pytest.mark.parametrize(
    ("ours", "theirs", "exact", "said"),
    [
        ([1, 2, 3], [4, 5, 6], False, ["2 (1 to 3)", "5 (4 to 6)", "lower in every seed", "holds"]),
        ([4, 5, 6], [1, 2, 3], False, ["5 (4 to 6)", "2 (1 to 3)", "higher in every seed", "does not hold"]),
        ([1, 2, 4], [4, 5, 6], False, ["2 (1 to 4)", "5 (4 to 6)", "the seeds overlap", "no difference shown"]),
        ([4, 4, 4], [4, 4, 4], False, ["4", "4", "the same", "no difference shown"]),
        ([1], [9], False, ["1", "9", "one seed shows no difference", "no difference shown"]),
        ([1], [9], True, ["1", "9", "lower", "holds"]),  # a count
    ],
)
def test_seeds_have_to_lie_apart(
    tmp_path: Path, ours: list[float], theirs: list[float], exact: bool, said: list[str]
) -> None:
    found = records_of(make_benchmark(tmp_path, seeds=len(ours)))
    values = {"prompt_tuning": ours, "lora": theirs}
    found.runs["it"] = [values[m][seed] if m in values else 0 for _, m, seed in found.runs.index]
    judged = by_seeds(found, "sentiment", [Measure("it", "it", "whole", exact=exact)], ["prompt_tuning"], ["lora"])
    assert judged.findings.iloc[0].tolist() == ["it", f"prompt tuning: {said[0]}", f"LoRA: {said[1]}", *said[2:]]


def test_the_least_flattering_finding_comes_first() -> None:
    said = [("holds", "a", 3), ("holds", "b", 1), ("no difference shown", "c", 2)]
    findings = [{"who": "m", "method": name, "verdict": word, "margin": margin} for word, name, margin in said]
    assert judge("t", findings).findings["method"].tolist() == ["c", "b", "a"]
    assert (judge("t", findings).word, judge("t", findings[:2]).word) == ("no difference shown", "holds")


def test_tables_have_the_numbers_and_say_what_was_not_measured(whole: list[Section]) -> None:
    (structured,) = [t for caption, t in whole[0].tables if caption == "home_commands, in per cent"]
    lora = structured.set_index("method").loc["LoRA"].tolist()
    assert lora == ["80.0 ± 1.0"] * 4 + ["80.0 ± 0.0 %", "71.0 ± 1.0 %", "61.0 ± 1.0 %"]
    (cost,) = [t for caption, t in whole[2].tables if caption.startswith("sentiment")]
    assert "hard prompt, 8-shot" not in set(cost["method"])
    assert cost.set_index("method").loc["LoRA"].to_dict() == {
        "trained parameters": "2,442,240",
        "saved for the task": "9.4 MiB",
        "time of training": "276 ± 1 s",
        "processor time of training": "551 ± 1 s",
        "tokens per second": "300 ± 0",
        "peak memory": "2.60 ± 0.00 GiB",
        "energy": "–",
    }
    assert "| LoRA | 2,442,240 | 9.4 MiB | 276 ± 1 s |" in card_markdown(whole)


@pytest.mark.parametrize("without", [(), ("lora/seed2",)])
def test_the_claims_and_tables_read_the_benchmark_at_full_length_once_it_is_complete(
    tmp_path: Path, without: tuple[str, ...]
) -> None:
    short = make_benchmark(tmp_path, "sentiment")
    long = replace(make_benchmark(tmp_path / "long", "sentiment", without=without), name="final_sentiment")
    compared = records_of(short).comparisons["sentiment"]
    found = make_records([short, long], {short.name: compared, long.name: compared})
    read, other = (short.name, long.name) if without else (long.name, short.name)
    assert found.main("sentiment") == read
    card = make_card(found)
    judged = {v.task for v in verdicts(card) if not v.missing}
    assert judged == {read}
    assert f"{read}: accuracy" in overview_table(found).columns
    assert f"{other}: accuracy" not in overview_table(found).columns
    assert f"| {read}, 4 test rows " in summary(found, card, {})
    assert f"| {other}, 4 test rows " not in summary(found, card, {})
    page = render_page(Contents(found, {}, card))
    assert all(f'id="{name}"' in page for name in (read, other))  # both keep their sections
