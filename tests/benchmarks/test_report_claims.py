"""The claims card: verdicts follow from the records, and where one is missing nothing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report.claims import SOFT, TASKS, WEIGHTS, Claim, Section, make_card
from benchmarks.report.claims_card import card_html, card_markdown
from benchmarks.report.evidence import Finding, Measure, Records, Verdict, between, by_seeds, judge
from made_benchmark import make_benchmark, make_comparisons

import pytest


def records(folder: Path, changes: dict[str, dict[str, Any]] | None = None, **differences: float) -> Records:
    """Return records of the three tasks; `changes` are those of `make_benchmark`, by task."""
    benchmarks = {task: make_benchmark(folder, task, **(changes or {}).get(task, {})) for task in TASKS}
    return Records(benchmarks, {task: make_comparisons(task, **differences) for task in TASKS})


def claims_of(card: list[Section]) -> list[Claim]:
    return [claim for section in card for claim in section.claims]


def verdict(card: list[Section], beginning: str, task: str) -> Verdict:
    """Return a task's verdict on the claim with these words in it."""
    (claim,) = [c for c in claims_of(card) if beginning in c.statement]
    (found,) = [v for v in claim.verdicts if v.task == task]
    return found


def test_every_claim_is_judged_where_all_is_recorded(tmp_path: Path) -> None:
    card = make_card(records(tmp_path))
    assert [len(s.claims) for s in card] == [4, 3, 4, 3, 2, 2]
    words = {c.statement: [v.word for v in c.verdicts] for c in claims_of(card)}
    assert None not in [word for found in words.values() for word in found]
    assert [v.missing for c in claims_of(card) for v in c.verdicts] == [()] * 36
    expected = {
        "valid JSON": "holds",
        "exact command more often than a written": "holds",
        "exact command more often than LoRA": "does not hold",
        "Drawn at random": "holds",
        "house style, and overlap": "does not hold",
        "fewer parameters": "holds",
        "fewer bytes": "holds",
        "fewer seconds": "does not hold",
        "less memory": "holds",
        "loss on general text": "holds",
        "to the last bit": "holds",
        "fewer tokens for a request": "holds",
    }
    for words_in_it, word in expected.items():
        assert verdict(card, words_in_it, "docstrings" if "style" in words_in_it else "home_commands").word == word


def test_a_verdict_has_the_figures_of_the_records(tmp_path: Path) -> None:
    card = make_card(records(tmp_path))
    assert verdict(card, "exact command more often than LoRA", "home_commands").sentence == (
        "Does not hold (6 of 6 against it). Most clearly: exact_match, P-tuning against full fine-tuning: 68.0 % "
        "against 82.0 %, −14.0 points (95 % interval −19.0 to −9.0, adjusted p 0.001)."
    )
    assert verdict(card, "fewer seconds", "sentiment").sentence == (
        "Does not hold (2 of 6 against it, 4 for it). Most clearly: time of training, prompt tuning against LoRA: "
        "421 (420 to 422) s against 276 (275 to 277) s, higher in every seed."
    )
    assert verdict(card, "to the last bit", "sentiment").findings[0].sentence == (
        "prompt tuning: exactly zero over 9 measurements"
    )


def test_a_p_that_is_not_small_shows_no_difference(tmp_path: Path) -> None:
    found = records(tmp_path)
    undecided = Records(found.benchmarks, {task: make_comparisons(task, adjusted=0.05) for task in TASKS})
    assert verdict(make_card(undecided), "exact command more often than a written", "home_commands").sentence == (
        "No difference shown (6 of 6 without a difference). Such as: exact_match, P-tuning against hard prompt, "
        "8-shot: 68.0 % against 50.0 %, +18.0 points (95 % interval +13.0 to +23.0, adjusted p 0.050)."
    )


def test_one_comparison_against_it_is_enough(tmp_path: Path) -> None:
    card = make_card(records(tmp_path, prefix_tuning=0.4))
    found = verdict(card, "exact command more often than a written", "home_commands")
    assert found.sentence.startswith("Does not hold (1 of 6 against it, 5 for it). Most clearly: exact_match, prefix")


@pytest.mark.parametrize("change", [{"without": ["p_tuning/seed1"]}, {"failed": {"p_tuning/seed1": "no space"}}])
def test_it_refuses_to_speak_where_a_run_is_missing(tmp_path: Path, change: dict[str, Any]) -> None:
    card = make_card(records(tmp_path, {"home_commands": change}))
    found = verdict(card, "exact command more often than a written", "home_commands")
    reason = "failed: no space" if "failed" in change else "no record"
    assert found == Verdict(
        "home_commands",
        None,
        f"No verdict; missing: P-tuning, seed 1 ({reason}).",
        missing=(f"P-tuning, seed 1 ({reason})",),
    )
    silent = [v for c in claims_of(card) for v in c.verdicts if v.word is None]
    assert {v.task for v in silent} == {"home_commands"}
    assert [v.findings for v in silent] == [()] * 14
    for text in (card_markdown(card), card_html(card)):
        assert text.count(f"missing: P-tuning, seed 1 ({reason})") == 14


def test_a_missing_run_of_a_method_that_a_claim_does_not_name_does_not_silence_it(tmp_path: Path) -> None:
    card = make_card(records(tmp_path, {"home_commands": {"without": ["full_finetuning/seed0"]}}))
    assert verdict(card, "valid JSON", "home_commands").word == "holds"
    assert verdict(card, "to the last bit", "home_commands").word == "holds"
    assert verdict(card, "fewer bytes", "home_commands").word is None


def test_it_refuses_to_speak_without_probes_comparisons_a_method_or_a_task(tmp_path: Path) -> None:
    card = make_card(records(tmp_path / "probes", {"docstrings": {"probes": False}}))
    assert verdict(card, "loss on general text", "docstrings").missing[0] == (
        "change of loss on general text, attached of prompt tuning, seeds 0, 1, 2"
    )
    for words in ("score on other tasks", "to the last bit", "fewer tokens", "answered sooner"):
        assert verdict(card, words, "docstrings").word is None
    found = records(tmp_path / "whole")
    card = make_card(Records(found.benchmarks, {}))
    assert verdict(card, "valid JSON", "home_commands").missing[0] == (
        "a paired comparison of prompt tuning with hard prompt, zero-shot by valid_json"
    )
    for part in ("cells", "grid"):
        methods = getattr(found.benchmarks["sentiment"], part)
        (methods["methods"] if part == "grid" else methods).pop("lora")
    assert verdict(make_card(found), "fewer bytes", "sentiment").missing == ("lora (not in the grid)",)
    card = make_card(Records({}, {}))
    assert {v.word for c in claims_of(card) for v in c.verdicts} == {None}
    assert verdict(card, "fewer bytes", "docstrings").missing == ("every record of docstrings",)
    assert "Holds" not in card_markdown(card)


def test_answers_drawn_otherwise_than_claimed_do_not_count(tmp_path: Path) -> None:
    found = records(tmp_path)
    found.benchmarks["home_commands"].cells["lora"][0].probes["sampling"]["temperature"] = 1.0
    assert verdict(make_card(found), "Drawn at random", "home_commands").missing == (
        "agreement of 5 draws at temperature 0.7 of LoRA, seed 0",
        "exact_match of answers drawn at temperature 0.7 of LoRA, seed 0",
    )


@pytest.mark.parametrize("where", ["general", "home_commands"])
def test_the_smallest_change_when_detached_is_told(tmp_path: Path, where: str) -> None:
    found = records(tmp_path)
    forgetting = found.benchmarks["docstrings"].cells["lora"][1].probes["forgetting"]
    measured = forgetting["general"] if where == "general" else forgetting["tasks"][where]
    measured["detached"] += 1e-6
    told = verdict(make_card(found), "to the last bit", "docstrings")
    assert told.sentence == (
        "Does not hold (1 of 4 against it, 3 for it). Most clearly: LoRA: up to 1e-06 over 9 measurements."
    )


def test_scores_on_other_tasks_may_be_losses_or_accuracies(tmp_path: Path) -> None:
    findings = verdict(make_card(records(tmp_path)), "score on other tasks", "docstrings").findings
    sentences = [f.sentence for f in findings if f.sentence.endswith("in every seed")]
    assert len(findings) == len(sentences) == 2 * len(SOFT) * len(WEIGHTS)
    assert (
        "change of accuracy on sentiment, attached, prompt tuning against LoRA: −7.7 (−8.7 to −6.7) points "
        "against −27.7 (−28.7 to −26.7) points, higher in every seed"
    ) in sentences
    assert (
        "change of loss on home_commands, attached, prompt tuning against LoRA: +0.210 (+0.200 to +0.220) nats a token "
        "against +0.810 (+0.800 to +0.820) nats a token, lower in every seed"
    ) in sentences


def made_verdict(folder: Path, values: dict[str, list[float]], exact: bool = False, **changes: Any) -> Verdict:
    """Judge whether prompt tuning has less of something than LoRA, a number a seed."""
    benchmark = make_benchmark(folder, **changes)
    measure = Measure("it", lambda c: values[c.method][c.seed], lambda v: f"{v:.0f}", exact=exact)
    return by_seeds(Records({"sentiment": benchmark}, {}), "sentiment", [measure], ["prompt_tuning"], ["lora"])


@pytest.mark.parametrize(
    ("ours", "theirs", "word", "remark"),
    [
        ([1, 2, 3], [4, 5, 6], "holds", "2 (1 to 3) against 5 (4 to 6), lower in every seed"),
        ([4, 5, 6], [1, 2, 3], "does not hold", "5 (4 to 6) against 2 (1 to 3), higher in every seed"),
        ([1, 2, 4], [4, 5, 6], "no difference shown", "2 (1 to 4) against 5 (4 to 6), the seeds overlap"),
        ([4, 4, 4], [4, 4, 4], "no difference shown", "4 against 4, the same"),
    ],
)
def test_seeds_have_to_lie_apart(
    tmp_path: Path, ours: list[float], theirs: list[float], word: str, remark: str
) -> None:
    found = made_verdict(tmp_path, {"prompt_tuning": ours, "lora": theirs})
    assert (found.word, found.findings[0].sentence) == (word, f"it, prompt tuning against LoRA: {remark}")


def test_one_seed_shows_no_difference_of_a_measurement_but_of_a_count(tmp_path: Path) -> None:
    values = {"prompt_tuning": [1.0], "lora": [9.0]}
    assert made_verdict(tmp_path / "a", values, seeds=1).word == "no difference shown"
    assert made_verdict(tmp_path / "b", values, seeds=1, exact=True).word == "holds"


def test_the_least_flattering_finding_comes_first() -> None:
    findings = [Finding("holds", "a", 3), Finding("holds", "b", 1), Finding("no difference shown", "c", 2)]
    assert [f.sentence for f in judge("t", findings, []).findings] == ["c", "b", "a"]
    assert judge("t", findings[:1], []).sentence == "Holds: a."
    assert judge("t", findings, []).sentence == (
        "No difference shown (1 of 3 without a difference, 2 for it). Such as: c."
    )


def test_between() -> None:
    assert (between([1.0, 1.04], "{:.1f}".format), between([1.0, 3.0], "{:.1f}".format)) == ("1.0", "2.0 (1.0 to 3.0)")


def test_tables_have_the_numbers_and_say_what_was_not_measured(tmp_path: Path) -> None:
    card = make_card(records(tmp_path))
    (structured,) = [t for caption, t in card[0].tables if caption == "home_commands, in per cent"]
    rows = {row[0]: row[1:] for row in structured.rows}
    assert rows["LoRA"] == tuple(["80.0 ± 1.0"] * 4 + ["80.0", "71.0 ± 1.0", "61.0 ± 1.0"])
    (cost,) = [t for caption, t in card[2].tables if caption.startswith("sentiment")]
    (lora,) = [row for row in cost.rows if row[0] == "LoRA"]
    assert dict(zip(cost.head, lora, strict=True)) | {"method": "LoRA"} == {
        "method": "LoRA",
        "trained parameters": "2,442,240",
        "saved for the task": "9.4 MiB",
        "time of training": "276 ± 1 s",
        "processor time of training": "550 s",
        "tokens a second": "300",
        "peak memory": "2.60 GiB",
        "energy": "none recorded",
    }


def test_html_escapes_what_a_record_says(tmp_path: Path) -> None:
    html = card_html(make_card(records(tmp_path, {"sentiment": {"failed": {"lora/seed0": "<script>x</script>"}}})))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
