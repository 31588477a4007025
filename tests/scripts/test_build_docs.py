"""The documentation site: generated parts equal sources and records, links are valid, and it builds strictly."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev

from benchmarks.report.frame import results_of
from helpers import ROOT
from scripts.build_docs import messages, pages, readme, recipes, reference, results
from scripts.build_docs.made import MADE
from scripts.build_docs.pages import DIRECTIVE, Site, expand, moved, read_page
from scripts.build_docs.records import TASKS, grids, record_of_config, runs, shipped
from scripts.build_docs.tables import TABLE, parse_table, unbroken, with_csv
from softprompts.errors import UserError
from softprompts.methods.catalog import METHODS
from softprompts.tasks.templates import render

import pytest

needs_mkdocs = pytest.mark.skipif(
    find_spec("mkdocs") is None or find_spec("material") is None, reason="needs the extra `docs`: run `make docs`"
)


def page(path: str) -> str:
    """Return the text of a page of docs/."""
    return (ROOT / "docs" / path).read_text(encoding="utf-8")


def cells(table: str, row: str) -> list[str]:
    """Return the cells of the row of a table that begins with `row`."""
    frame = parse_table(table)
    (found,) = [values for values in frame.itertuples(index=False) if values[0] == row]
    return list(found)


# Pages


def test_links_to_pages_lead_to_pages_and_others_to_copies() -> None:
    site = Site()
    text = (
        "[a](../../README.md#results) [b](../own_data.md) [c](../../recipes/lora.py) [d](https://x.y) `[f](g)` [h](#h)"
    )
    assert moved(site, text, "docs/recipes/lora.md", "recipes/lora.md") == (
        "[a](../index.md#results) [b](../own_data.md) [c](../source/recipes/lora.py) [d](https://x.y) `[f](g)` [h](#h)"
    )
    assert site.copies == {"recipes/lora.py"}


def test_a_link_to_a_folder_leads_to_its_listing() -> None:
    assert moved(Site(), "[r](results/tasks)", "README.md", "index.md") == "[r](source/results/tasks/index.html)"


def test_a_link_to_nothing_is_an_error_with_its_page() -> None:
    with pytest.raises(UserError, match=r"docs/a\.md: links to b\.md, which does not exist"):
        moved(Site(), "[b](b.md)", "docs/a.md", "a.md")


def test_a_directive_is_replaced_and_its_links_are_seen_from_the_page() -> None:
    made = {"x": lambda name: f"[{name}](recipes/{name}.py)"}
    assert expand("a\n<!-- made: x lora -->\nb", made, "docs/recipes/y.md") == "a\n[lora](../../recipes/lora.py)\nb"


@pytest.mark.parametrize(
    ("directive", "said"),
    [("recipee lora", r'docs/a\.md: no directive recipee \(did you mean "recipe"\?\)'), ("demo x", "made: demo x")],
)
def test_a_wrong_directive_is_an_error(directive: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        expand(f"<!-- made: {directive} -->", MADE, "docs/a.md")


def test_every_page_can_be_made() -> None:
    site = Site()
    for path in sorted((ROOT / "docs").rglob("*.md")):
        made = read_page(site, path.relative_to(ROOT / "docs").as_posix(), MADE)
        assert not DIRECTIVE.search(made)
    assert len(site.pages) > 30


def test_every_recipe_has_its_page() -> None:
    for path in (ROOT / "recipes").glob("*.py"):
        text = page(f"recipes/{path.stem}.md")
        assert f"<!-- made: recipe {path.stem} -->" in text
        assert f"<!-- made: script {path.stem} -->" in text
        made = recipes.facts(path.stem) + recipes.script(path.stem)
        assert path.read_text(encoding="utf-8").splitlines()[-1] in made
        if method := METHODS.get(path.stem):
            assert method.trains in made
            assert "arxiv.org" in text or method.name in ("hard_prompt", "full_finetuning")


def test_a_config_that_names_a_recipe_only_as_an_example_is_not_listed_as_its_config() -> None:
    assert "configs/sentiment/lora.yaml" in recipes.configs_of("lora")
    assert "configs/benchmarks/teachers.yaml" not in recipes.configs_of("lora")
    assert recipes.configs_of("export") == []


# Tables


def test_each_table_of_a_page_is_a_csv_file() -> None:
    text, files = with_csv("# a\n\n| x | y |\n|---|---|\n| [1](a.md) | b \\| `c` |\n\nend\n", "results/page.md")
    assert list(files) == ["results/csv/page-1.csv"]
    assert list(csv.reader(io.StringIO(files["results/csv/page-1.csv"]))) == [["x", "y"], ["1", "b | c"]]
    assert "[this table as CSV](csv/page-1.csv)" in text
    assert text.endswith("\nend\n")


def test_numbers_stay_with_their_units_in_tables_only() -> None:
    made = unbroken("1.0 ± 2.0\n\n| a |\n|---|\n| 1.0 ± 2.0 |\n| −1.0 to +2.0 |\n| 3 KiB |\n")
    assert made.startswith("1.0 ± 2.0\n")
    assert "1.0\u00a0±\u00a02.0 |" in made
    assert "−1.0\u00a0to\u00a0+2.0" in made
    assert "3\u00a0KiB" in made


@pytest.mark.parametrize("task", TASKS)
def test_the_overview_has_mean_and_deviation_of_the_seeds_and_the_shipped_run(task: str) -> None:
    folder = ROOT / "results" / "benchmarks" / task / "lora"
    metrics = [json.loads(f.read_text(encoding="utf-8"))["metrics"] for f in sorted(folder.glob("seed?.json"))]
    first = next(iter(metrics[0]))
    values = [100 * found[first]["value"] for found in metrics]
    single = json.loads(record_of_config(task, "lora", ROOT / "results").read_text(encoding="utf-8"))
    expected = f"{mean(values):.1f} ± {stdev(values):.1f} / {100 * single['metrics'][first]['value']:.1f}"
    assert cells(results.overview(), "LoRA")[1 + TASKS.index(task)] == expected


def test_a_recipe_s_results_are_those_of_its_records() -> None:
    record = json.loads(record_of_config("docstrings", "prefix_tuning", ROOT / "results").read_text(encoding="utf-8"))
    score = record["metrics"]["rouge_l"]
    value, low, high = (f"{100 * score[key]:.1f}" for key in ("value", "low", "high"))
    row = cells(recipes.results_table("prefix_tuning"), "docstrings")
    assert row[1:3] == ["rouge_l", f"{value} ({low} to {high})"]
    assert row[3] == f"{record['parameters']['trainable']:,}"


def test_what_the_demo_printed_is_of_its_records() -> None:
    printed = readme.PRINTED.read_text(encoding="utf-8")
    assert printed.startswith(f"{results.demo()}\n"), "run `make demo` and `make record` again, both records and this"


def test_the_report_s_tables_are_those_of_the_records() -> None:
    report = (ROOT / "results/report/tables.md").read_text(encoding="utf-8")
    for text in (report, results.benchmark()):
        for task, benchmark in grids().items():
            first = recipes.metrics_of(results_of(benchmark))[0]
            for name in benchmark.cells:
                shown = recipes.metric(first).spread(runs().loc[task].loc[[name]])
                assert f"| {benchmark.label(name)} | {shown} |" in text, "`make report` makes them anew"


def test_a_prompt_for_several_tasks_shows_the_rows_of_the_others() -> None:
    several = shipped("sentiment")["multitask_prompt_tuning"]
    expected = f"{100 * several.notes['tasks']['movies']['accuracy']:.1f}"
    assert cells(results.overview(), "multitask prompt tuning")[1] == f"– / {expected}"


def test_the_claims_are_a_table_with_a_word_for_each_method() -> None:
    found = parse_table(results.claims())
    assert found.columns[0] == "claim"
    assert len(found) > 10


def test_a_conversation_is_read_by_the_templates_of_the_page(tmp_path: Path) -> None:
    (row,) = re.findall(r'`task.prompt: "(.*?)"`, `task.target: "(.*?)"`, `task.chat: true`', page("coming_from.md"))
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    assert [render(template, {"messages": turns}, "a row") for template in row] == ["Hello", "Hi"]


# Reference and messages


def test_the_reference_has_every_key_once() -> None:
    text = reference.sections()
    for kind, (names, _) in reference.all_sections().items():
        assert text.count(f"{{ #{reference.anchor(kind)} }}") == 1
        for item in fields(kind):
            assert f"`{names[0]}.{item.name}`{{ .key }}" in text
    assert not re.search(r"^:   $", text, re.MULTILINE), "a key without a meaning"


def test_every_message_is_on_the_page() -> None:
    named = [name for found in DIRECTIVE.findall(page("troubleshooting.md")) for name in found.split()[1:]]
    missing = [m for m in messages.messages() if not any(messages.within(m, name) for name in named)]
    assert missing == []


def test_messages_that_the_page_explains_exist() -> None:
    said = [text for texts in messages.messages().values() for text in texts]
    tables = [t[0] for t in TABLE.finditer(page("troubleshooting.md")) if t[0].startswith("| message")]
    rows = [row.split(" | ")[0] for table in tables for row in table.splitlines()[2:]]
    named = [span for row in rows for span in re.findall(r"`([^`]+)`", row)]
    assert len(named) > 40
    patterns = {span: ".*".join(re.escape(part.strip()) for part in span.split("…")) for span in named}
    assert [span for span, pattern in patterns.items() if not any(re.search(pattern, text) for text in said)] == []


# The site


def built(folder: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a working copy."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@needs_mkdocs
@pytest.mark.slow
def test_the_site_builds_strictly_and_needs_no_network(tmp_path: Path) -> None:
    ended = built(tmp_path / "site", ROOT)
    assert ended.returncode == 0, ended.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 40
    for path in pages:
        html = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img)\b[^>]*?\b(?:src|href)=\"?(https?://[^\s\">]+)", html)
        assert loaded == [], path
        assert "<!-- made:" not in html
    index = json.loads((tmp_path / "site/search/search_index.json").read_text(encoding="utf-8"))
    titles = {found["title"] for found in index["docs"]}
    assert {"Soft Prompt Recipes", "Quickstart", "Troubleshooting", "Glossary"} <= titles
    assert list((tmp_path / "site/results/csv").glob("*.csv"))


@needs_mkdocs
@pytest.mark.parametrize(
    "faults",
    [
        [],
        [("one.md", "[x](nothing.md)", "nothing.md, which does not exist")],  # this ends the build at once
        [("one.md", "[x](two.md#nowhere)", "#nowhere"), ("stray.md", "# Stray", "stray.md")],
    ],
)
def test_a_broken_link_a_missing_anchor_and_a_stray_page_fail(
    tmp_path: Path,
    faults: list[tuple[str, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = {
        "README.md": "# Home\n\n[one](docs/one.md)\n",
        "docs/one.md": "# One\n\n[two](two.md#part)\n",
        "docs/two.md": "# Two\n\n## Part\n",
        "docs/style.css": "",
        "mkdocs.yml": (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[0]
        + "\nnav: [index.md, one.md, two.md]\n",
    }
    (tmp_path / "docs").mkdir()
    for name, text in made.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name in ("benchmarks", "configs", "recipes", "results", "scripts", "src", "CONTRIBUTING.md", "CHANGELOG.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, text, _ in faults:
        with (tmp_path / "docs" / name).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{text}\n")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "EXTRA", {"index.md": "README.md"})
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import MkDocsException

    ended = None
    with caplog.at_level("WARNING", "mkdocs"):
        try:
            build(load_config(str(tmp_path / "mkdocs.yml"), site_dir=str(tmp_path / "site")))
        except MkDocsException as error:
            ended = error
    assert (ended is None) == (not faults), caplog.text
    for _, _, said in faults:
        assert said in f"{caplog.text}{ended}"
    assert faults or not caplog.text
