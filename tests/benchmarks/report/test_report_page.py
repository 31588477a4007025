"""The page: it loads no other file, escapes the models' predictions, and shows the records."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import Benchmark
from benchmarks.report.claims import make_card
from benchmarks.report.figures import draw
from benchmarks.report.frame import make_records
from benchmarks.report.page import Contents, render_page
from benchmarks.report.papers import load_experiments, of_neighbours
from benchmarks.report.tables import TASKS, results_table
from helpers import ROOT
from made_benchmark import make_benchmark, records_of
from page_reader import assert_alone, read
from softprompts.reports.pages.page import LONGEST
from softprompts.reports.pages.style import close

import pytest

pytestmark = pytest.mark.slow

COUNT = "trained parameters"
GAP = {"docstrings": {"without": ["p_tuning/seed1"]}}


def rendered(*benchmarks: Benchmark, prefix_tuning: float = 0.72, **more: Any) -> str:
    records = records_of(*benchmarks, prefix_tuning=prefix_tuning)
    drawings = {b.name: draw(records, b.name) for b in benchmarks}
    page = render_page(Contents(records, drawings, make_card(records), **more))
    for drawn in drawings.values():
        close(drawn)
    return page


def test_the_page_needs_nothing_beside_itself(tmp_path: Path) -> None:
    assert_alone(rendered(make_benchmark(tmp_path), make_benchmark(tmp_path, "home_commands")))


def test_links_lead_somewhere_and_ids_are_unique(tmp_path: Path) -> None:
    reader = read(rendered(make_benchmark(tmp_path), make_benchmark(tmp_path, "home_commands")))
    ids = [str(values["id"]) for tag, values in reader.seen if "id" in values and tag in ("section", "clippath")]
    assert len(ids) == len(set(ids))
    links = [str(values["href"])[1:] for tag, values in reader.seen if tag == "a"]
    claims = [f"claim-{n}" for n in range(1, 19)]
    assert links == ["results", "claims", "comparisons", "sentiment", "home_commands", *claims]
    headings = [str(values["id"]) for tag, values in reader.seen if tag == "h4"]
    assert headings == claims
    assert set(links) <= {*ids, *headings}


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", "</td></table><img src=x onerror=alert(1)>", '"><b>'])
def test_what_a_model_or_a_row_says_stays_text(tmp_path: Path, evil: str) -> None:
    benchmark = make_benchmark(tmp_path, answers=[evil] * 4, prompt=evil, failed={"lora/seed1": evil})
    page = rendered(benchmark)
    assert evil not in page
    reader = read(page)
    assert not {tag for tag, _ in reader.seen} & {"script", "img"}
    assert reader.tables["Predictions of sentiment"][1] == ["row 0", evil, "positive", *[evil] * 7]
    assert [values for tag, values in reader.seen if "onerror" in values] == []


def test_tables_have_the_numbers_of_the_records(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    tables = read(rendered(benchmark)).tables
    shown = results_table(records_of(benchmark), "sentiment")
    assert tables["Results of sentiment"] == [list(shown.columns), *shown.to_numpy().tolist()]
    assert len(tables["Paired comparisons of sentiment"]) == 1 + 2 * 21
    assert len(tables["Sweeps: 15 points, and the choice by validation of sentiment"]) == 1 + 5 * 3
    assert tables["Scores of LoRA, seed 2"][1] == ["accuracy", "81.0", "78.0 to 84.0"]
    costs = dict(map(tuple, tables["Cost of LoRA, seed 2"]))
    assert costs["seconds training"] == "277"
    assert costs["peak memory"] == "2.6 GiB"
    assert costs["adapter"] == "9.4 MiB (9,823,216 bytes)"
    assert costs["parameters, trainable"] == "2,442,240"


def test_it_begins_with_one_table_the_fronts_and_the_claims_and_folds_the_rest(tmp_path: Path) -> None:
    page = rendered(*(make_benchmark(tmp_path, task) for task in TASKS))
    reader = read(page)
    assert list(reader.tables)[:2] == ["Results of all tasks", "Claims by method"]
    head, first, *_ = reader.tables["Results of all tasks"]
    assert head[:5] == ["method", "sentiment: accuracy", "home_commands: exact_match", "docstrings: rouge_l", COUNT]
    assert first[:5] == ["hard prompt, zero-shot", "30.0 ± 1.0", "30.0 ± 1.0", "30.0 ± 1.0", "–"]
    assert [row[4:7] for row in reader.tables["Results of all tasks"] if row[0] == "LoRA"] == [
        ["2,442,240", "9.4 MiB", "275 to 277"]
    ]
    before, _, rest = page.partition("<details")
    assert before.count("<svg") == 3, "a Pareto front per task"
    assert len(re.findall("<p[ >]", before)) < 6, "no sentences before the table"
    assert "All comparisons:" in rest


def test_the_matrix_has_a_sign_per_task_and_says_it_in_words(tmp_path: Path) -> None:
    page = rendered(*(make_benchmark(tmp_path, task, **GAP.get(task, {})) for task in TASKS), prefix_tuning=0.4)
    rows = {row[0].partition(".")[0]: row for row in read(page).tables["Claims by method"][1:]}
    fewer = rows["Soft prompts train fewer parameters than LoRA and full fine-tuning"]
    assert fewer[0].endswith(" sentiment, home_commands, docstrings")
    assert fewer[1] == "✓sentiment: holds. ✓home_commands: holds. –docstrings: no verdict. "
    assert fewer[4:] == ["", ""], "the claim is not about LoRA"
    exact = rows["Soft prompts give the exact command more often than a hard prompt"]
    assert [cell[:1] for cell in exact[1:4]] == ["✓", "✗", "✓"]


def test_each_run_opens_to_its_settings_and_answers_are_side_by_side(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, prompt="x" * (LONGEST + 50))
    page = rendered(benchmark, shown=3)
    summaries = re.findall(r"<summary>(.*?)</summary>", page)
    assert sum(", seed " in s for s in summaries) == 21
    assert "Predictions side by side: 4 rows, 0 on which predictions differ" in summaries
    for name in ("Settings", "Environment and data", "Probes"):
        assert summaries.count(name) == 21
    assert "bundled:smollm2-135m-instruct" in page
    assert "… (50 characters more) …" in page
    assert "x" * (LONGEST + 1) not in page
    table = read(page).tables["Predictions of sentiment"]
    assert (len(table), len(table[0])) == (1 + 3, 3 + 7)


def test_missing_runs_and_the_lack_of_comparisons_are_said(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, failed={"lora/seed1": "out of memory"}, without=["p_tuning/seed0"])
    benchmark.sweeps.clear()
    records = make_records([benchmark], {})
    page = render_page(Contents(records, {}, make_card(records)))
    assert "Missing: P-tuning, seed 0 (no record); LoRA, seed 1 (failed: out of memory)." in page
    assert "19 of 21 planned runs are recorded" in page
    assert "No paired comparisons" in page
    assert "Sweeps:" not in page
    assert "Missing:" not in rendered(make_benchmark(tmp_path / "whole"))


def test_figures_have_a_name_for_who_does_not_see_them(tmp_path: Path) -> None:
    reader = read(rendered(make_benchmark(tmp_path)))
    names = [values for tag, values in reader.seen if tag == "svg"]
    assert len(names) == 6
    assert all(v["role"] == "img" and v["aria-label"] for v in names)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_has_contrast_in_both_schemes() -> None:
    css = (ROOT / "src" / "softprompts" / "reports" / "pages" / "page.css").read_text(encoding="utf-8")
    schemes = re.findall(r":root\{([^}]*)\}", css)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+):(#\w+)", scheme))
        for ground in ("ground", "raised"):
            for name in ("text", "faint", "link", "yes", "no", "open"):
                light, dark = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ground)


def test_an_experiment_without_a_grid_has_a_section_of_its_own() -> None:
    tokens = [{"similarities": [0.5], "cluster": cluster} for cluster in (0.3, 0.4)]
    found = of_neighbours(load_experiments()["neighbours"], {"k": 1, "learned": tokens, "random": tokens})
    page = rendered(papers=[found])
    assert '<a href="#lester_neighbours">lester neighbours</a>' in page
    assert '<section id="lester_neighbours"><h2>lester neighbours</h2>' in page
    assert read(page).tables["Findings of lester_neighbours"][1][1] == "no difference is shown"
