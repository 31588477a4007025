"""Figures of marks in rows: what is drawn is what is recorded."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report.measures import transfers
from benchmarks.report.style import close
from benchmarks.report.variants import draw_transfer, draw_variants
from made_benchmark import METHODS, make_benchmark


def test_a_mark_a_seed_and_a_line_at_their_mean(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, without=["lora/seed2"])
    (drawing,) = draw_variants(benchmark)
    axis = drawing.figure.axes[0]
    marks = [[round(float(x), 6) for x in line.get_xdata()] for line in axis.lines]
    row = 2 * list(METHODS).index("lora")
    assert marks[row] == [79, 80]
    assert marks[row + 1] == [79.5, 79.5]
    assert [label.get_text() for label in axis.get_yticklabels()][-2:] == ["LoRA", "full fine-tuning"]
    assert drawing.name == "sentiment_variants"
    close([drawing])


def test_transfer_is_a_mark_a_domain(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, transfer=[{"domain": ["tweets"]}, {"domain": ["editorials"]}])
    (drawing,) = draw_transfer(benchmark)
    marks = {line.get_label(): [round(float(x), 6) for x in line.get_xdata()] for line in drawing.figure.axes[0].lines}
    lora = list(METHODS).index("lora")
    assert {name: values[lora] for name, values in marks.items()} == {"as trained": 80, "tweets": 70, "editorials": 60}
    close([drawing])


def test_transfer_is_not_drawn_where_it_was_not_measured(tmp_path: Path) -> None:
    assert draw_transfer(make_benchmark(tmp_path, transfer=[])) == []
    changed = make_benchmark(tmp_path, transfer=[{"domain": ["tweets"]}], probes=False)
    assert draw_transfer(changed) == []


def test_requests_in_other_languages_are_judged_by_their_slots(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, "home_commands", transfer=[{"language": ["de"]}])
    assert [measure.name for measure in transfers(benchmark)] == ["slot_f1 on de"]
    (drawing,) = draw_transfer(benchmark)
    assert drawing.figure.axes[0].get_xlabel() == "slot_f1, %"
    close([drawing])
