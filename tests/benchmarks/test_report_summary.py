"""The README's part of the benchmark: complete tasks only, pairs seen from the soft prompt, the word on each claim."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report.claims import make_card
from benchmarks.report.evidence import Records
from benchmarks.report.summary import pairs, summary, turned
from made_benchmark import make_benchmark, make_comparisons


def test_a_task_shows_numbers_once_all_runs_are_there(tmp_path: Path) -> None:
    whole, part = make_benchmark(tmp_path), make_benchmark(tmp_path, "docstrings", without=["lora/seed1"])
    comparisons = {b.name: make_comparisons(b.name) for b in (whole, part)}
    card = make_card(Records({b.name: b for b in (whole, part)}, comparisons))
    said = summary([whole, part], comparisons, card, {"sentiment": ["docs/sentiment_seconds.png"]})
    assert "| LoRA | 80.0 ± 1.0 |" in said
    assert "![sentiment: seconds](docs/sentiment_seconds.png)" in said
    assert "**home_commands**: no run is recorded" in said
    assert "**docstrings**: 20 of 21 runs are recorded; its numbers come once all are." in said
    assert "docstrings, 4 test rows" not in said
    fewer = "| Soft prompts train fewer parameters than LoRA and full fine-tuning. | holds | no verdict | no verdict |"
    assert fewer in said


def test_without_any_complete_task_there_is_no_table(tmp_path: Path) -> None:
    part = make_benchmark(tmp_path, without=["lora/seed1"])
    assert "|" not in summary([part], {"sentiment": []}, make_card(Records({}, {})), {})


def test_pairs_are_seen_from_the_soft_prompt(tmp_path: Path) -> None:
    made = make_comparisons("sentiment")
    said = pairs(make_benchmark(tmp_path), made)
    assert "| prompt tuning − hard prompt, 8-shot | accuracy | +20.0 | +15.0 to +25.0 |" in said
    assert "| prompt tuning − LoRA | accuracy | −10.0 |" in said
    assert said.count("\n") == 1 + 9  # three soft prompts against three others, and the head
    assert "macro_f1" not in said


def test_the_style_is_compared_beside_the_overlap(tmp_path: Path) -> None:
    said = pairs(make_benchmark(tmp_path, "docstrings"), make_comparisons("docstrings"))
    assert said.count("\n") == 1 + 9 + 9
    assert "| P-tuning − full fine-tuning | style_rate | −14.0 |" in said
    assert "chrf" not in said


def test_turned_twice_is_the_same() -> None:
    for comparison in make_comparisons("sentiment"):
        assert turned(turned(comparison)) == comparison
        assert turned(comparison).low == -comparison.high
