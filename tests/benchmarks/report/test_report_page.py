"""The page: it needs nothing beside itself, escapes what models wrote, and holds what the records say."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import Benchmark
from benchmarks.report.claims import make_card
from benchmarks.report.figures import draw
from benchmarks.report.frame import make_records
from benchmarks.report.page import LONGEST, render_page
from benchmarks.report.papers import load_experiments, of_neighbours
from benchmarks.report.style import close
from benchmarks.report.tables import results_table
from helpers import ROOT
from made_benchmark import make_benchmark, records_of

import pytest

pytestmark = pytest.mark.slow

VOID = {"meta", "br", "hr", "link", "img", "input"}


class Reader(HTMLParser):
    """Reads a page: its elements, whether they are nested well, and the cells of its tables by their label."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.label = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.seen.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "div" and values.get("role") == "region":
            self.label = str(values["aria-label"])
        elif tag == "table":
            assert self.open[-2] == "div", "a table scrolls in a box of its own"
            self.tables[self.label] = []
        elif tag == "tr":
            self.tables[self.label].append([])
        elif tag in ("th", "td"):
            self.tables[self.label][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[self.label][-1][-1] += data


def rendered(*benchmarks: Benchmark, **more: Any) -> str:
    records = records_of(*benchmarks)
    drawings = {b.name: draw(records, b.name) for b in benchmarks}
    page = render_page(records, drawings, make_card(records), **more)
    for drawn in drawings.values():
        close(drawn)
    return page


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_the_page_needs_nothing_beside_itself(tmp_path: Path) -> None:
    page = rendered(make_benchmark(tmp_path), make_benchmark(tmp_path, "home_commands"))
    reader = read(page)
    assert not {tag for tag, _ in reader.seen} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    targets = [v for _, values in reader.seen for k, v in values.items() if k in ("src", "href", "xlink:href")]
    assert targets
    assert [t for t in targets if not str(t).startswith("#")] == []
    assert not re.search(r"url\((?!#)|@import", page)
    policy = [v["content"] for tag, v in reader.seen if tag == "meta" and "http-equiv" in v]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_links_lead_somewhere_and_ids_are_unique(tmp_path: Path) -> None:
    reader = read(rendered(make_benchmark(tmp_path), make_benchmark(tmp_path, "home_commands")))
    ids = [str(values["id"]) for tag, values in reader.seen if "id" in values and tag in ("section", "clippath")]
    assert len(ids) == len(set(ids))
    links = [str(values["href"])[1:] for tag, values in reader.seen if tag == "a"]
    assert links == ["claims", "sentiment", "home_commands"]
    assert set(links) <= set(ids)


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", "</td></table><img src=x onerror=alert(1)>", '"><b>'])
def test_what_a_model_or_a_row_says_stays_text(tmp_path: Path, evil: str) -> None:
    benchmark = make_benchmark(tmp_path, answers=[evil] * 4, prompt=evil, failed={"lora/seed1": evil})
    page = rendered(benchmark)
    assert evil not in page
    reader = read(page)
    assert not {tag for tag, _ in reader.seen} & {"script", "img"}
    assert reader.tables["Answers of prompt tuning, seed 0"][1] == ["row 0", evil, " positive", evil]
    assert [values for tag, values in reader.seen if "onerror" in values] == []


def test_tables_have_the_numbers_of_the_records(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    tables = read(rendered(benchmark)).tables
    shown = results_table(records_of(benchmark), "sentiment")
    assert tables["Results of sentiment"] == [list(shown.columns), *shown.to_numpy().tolist()]
    assert len(tables["Paired comparisons of sentiment"]) == 1 + 2 * 21
    assert len(tables["Sweeps of sentiment"]) == 1 + 5 * 3
    assert tables["Scores of LoRA, seed 2"][1] == ["accuracy", "81.0", "78.0 to 84.0"]
    costs = dict(map(tuple, tables["Cost of LoRA, seed 2"]))
    assert costs["seconds training"] == "277"
    assert costs["peak memory"] == "2.6 GiB"
    assert costs["adapter"] == "9.4 MiB (9,823,216 bytes)"
    assert costs["parameters, trainable"] == "2,442,240"


def test_each_run_opens_to_its_settings_environment_and_first_answers(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, prompt="x" * (LONGEST + 50))
    page = rendered(benchmark, shown=3)
    summaries = re.findall(r"<summary>(.*?)</summary>", page)
    assert sum(", seed " in s for s in summaries) == 21
    assert summaries.count("First 3 of 4 answers") == 21
    for name in ("Settings", "Environment and data", "Probes"):
        assert summaries.count(name) == 21
    assert "bundled:smollm2-135m-instruct" in page
    assert "… (50 characters more)" in page
    assert "x" * (LONGEST + 1) not in page


def test_missing_runs_and_the_lack_of_comparisons_and_sweeps_are_said(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, failed={"lora/seed1": "out of memory"}, without=["p_tuning/seed0"])
    benchmark.sweeps.clear()
    records = make_records([benchmark], {})
    page = render_page(records, {}, make_card(records))
    assert "<li>LoRA, seed 1 (failed: out of memory)</li>" in page
    assert "<li>P-tuning, seed 0 (no record)</li>" in page
    assert "19 of 21 planned runs are recorded" in page
    assert "No paired comparisons" in page
    assert "No sweep is recorded" in page
    assert "Missing runs" not in rendered(make_benchmark(tmp_path / "whole"))


def test_figures_have_a_name_for_who_does_not_see_them(tmp_path: Path) -> None:
    reader = read(rendered(make_benchmark(tmp_path)))
    names = [values for tag, values in reader.seen if tag == "svg"]
    assert len(names) == 5
    assert all(v["role"] == "img" and v["aria-label"] for v in names)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_has_contrast_in_both_schemes() -> None:
    css = (ROOT / "benchmarks" / "report" / "page.css").read_text(encoding="utf-8")
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
    page = rendered(answers=[found])
    assert '<a href="#lester_neighbours">lester neighbours</a>' in page
    assert '<section id="lester_neighbours"><h2>lester neighbours</h2>' in page
    assert read(page).tables["Findings of lester_neighbours"][1][1] == "no difference is shown"
