"""The page about a user's runs: its runs, its comparisons, and that it replaces no other file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers import cli_in_process
from made_result import make_result
from page_reader import assert_alone, read
from softprompts.config.tools import ReportConfig
from softprompts.errors import UserError
from softprompts.metrics.scoring import Interval, load_metrics
from softprompts.metrics.significance import compare
from softprompts.reports.pages.compared import compare_on_common_rows
from softprompts.reports.pages.own_page import write_report
from softprompts.reports.pages.own_runs import find_runs, grouped
from softprompts.reports.pages.page import LONGEST, cut, key_of, side_by_side
from softprompts.reports.pages.style import STYLES, styles_of

import pytest

RIGHT, WRONG = " positive", " negative"
TASK = {"prompt": "{text}:", "target": " {label}", "metrics": ["accuracy"]}


def make_run(
    folder: Path, answers: list[str], seed: int = 0, recipe: str = "prompt_tuning", first: int = 0, **changes: Any
) -> None:
    """Write a finished run: its answers to rows `first` and following, of which each has the target RIGHT."""
    share = sum(answer == RIGHT for answer in answers) / len(answers)
    task = TASK | changes.pop("task_settings", {})
    settings = {"model": {"name_or_path": "tiny"}, "task": task, "training": {"steps": 12}, **changes.pop("more", {})}
    values = {
        "recipe": recipe,
        "seed": seed,
        "settings": settings | {"run": {"output_dir": str(folder), "seed": seed}},
        "metrics": {"accuracy": Interval(share, share - 0.1, share + 0.1, len(answers))},
        "cost": {"seconds_training": 10.0 + seed, "peak_memory_gib": 1.5, "adapter_bytes": 2048.0},
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(asdict(make_result(**(values | changes)))), encoding="utf-8")
    lines = [
        {"place": f"mine/test.jsonl:{n}", "prompt": f"row {n}:", "target": RIGHT, "prediction": answer, "scores": None}
        for n, answer in enumerate(answers, start=first + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "predictions.jsonl").write_text(text, encoding="utf-8")


def written(folder: Path, **settings: Any) -> str:
    """Write the report of a folder and return the page."""
    write_report(ReportConfig([str(folder)], resamples=50, **settings))
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_has_results_figures_comparisons_and_answers(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"prompt/seed{seed}", [RIGHT] * 9 + [WRONG] * (1 + seed), seed)
        make_run(tmp_path / f"lora{seed}", [WRONG] * 8 + [RIGHT] * (2 + seed), seed, "lora")
    page = written(tmp_path)
    assert_alone(page)
    tables = read(page).tables
    head, majority, *rows = tables["Results of sentiment"]
    assert head[:5] == ["run", "method", "rows", "accuracy", "seeds"]
    assert majority[3] == "51.0"
    assert [row[:5] for row in rows] == [
        ["lora", "LoRA", "10 or 11", "23.6 ± 5.1", "2"],
        ["prompt", "prompt tuning", "10 or 11", "85.9 ± 5.8", "2"],
    ]
    assert page.count("<svg") == 4
    compared = tables["Paired comparisons of sentiment"][1]
    assert compared[:3] == ["lora − prompt", "accuracy", "−70.0"]
    answers = tables["Predictions of sentiment"]
    assert answers[0] == ["row", "prompt", "target", "lora (seed 0)", "prompt (seed 0)"]
    assert answers[1] == ["mine/test.jsonl:1", "row 1:", "positive", "negative ✗", "positive ✓"]
    assert "predictions differ: 9" in page
    assert [row[0] for row in tables["Settings that differ of sentiment"][1:]] == ["recipe"]
    assert "Compared only on common rows, which are fewer than all: lora and prompt (10)." in page


def test_what_is_not_a_finished_run_is_named_or_passed_over(tmp_path: Path) -> None:
    make_run(tmp_path / "whole", [RIGHT, WRONG])
    make_run(tmp_path / "mute", [RIGHT, WRONG], more={"training": {"steps": 13}})
    (tmp_path / "mute/predictions.jsonl").unlink()
    make_run(tmp_path / "cut", [RIGHT, WRONG], more={"training": {"steps": 14}})
    (tmp_path / "cut/predictions.jsonl").write_text('{"place": "a"', encoding="utf-8")
    for name in ("half", "broken", "other", "contest", "whole/model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"recipe": "lora"}', encoding="utf-8")
    (tmp_path / "whole/model/config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (tmp_path / "broken/result.json").write_text('{"recipe": "lo', encoding="utf-8")
    (tmp_path / "other/result.json").write_text('{"schema_version": 99}', encoding="utf-8")
    (tmp_path / "contest/compare.json").write_text("{}", encoding="utf-8")
    runs, notes = find_runs([tmp_path])
    assert [run.name for run in runs] == ["cut", "mute", "whole"]
    damage = "is damaged, or not the record of a run: Unterminated string starting at: line 1 column 12 (char 11)"
    assert notes == [
        "Left out, because they are not finished (no result.json): half",
        f"broken is left out: {tmp_path}/broken/result.json: {damage}",
        "cut is not compared: its predictions.jsonl is damaged",
        "mute has no predictions.jsonl, so it is not compared",
        f"other is left out: {tmp_path}/other/result.json: this record has schema version 99, but only 1 is known",
    ]
    page = written(tmp_path)
    assert all(note.replace("'", "&#39;") in page for note in notes)


def test_a_run_by_itself_has_a_page(tmp_path: Path) -> None:
    make_run(tmp_path / "one", [RIGHT, WRONG])
    page = written(tmp_path / "one")
    assert [row[0] for row in read(page).tables["Results of sentiment"][1:]] == ["majority class", "one"]
    assert page.count("<svg") == 1, "a curve; a front of one method would say nothing"


@pytest.mark.parametrize("made", ["none", "empty", "unfinished"])
def test_without_a_finished_run_it_is_one_line(tmp_path: Path, made: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    said = f"error: report.runs: no finished run in {folder}"
    if made == "none":
        said = f"error: report.runs: {folder} is not a folder"
    else:
        folder.mkdir()
    if made == "unfinished":
        (folder / "config.json").write_text('{"recipe": "lora"}', encoding="utf-8")
        said += "; Left out, because they are not finished (no result.json): runs"
    command = ["recipes/report.py", "--report.runs", f"[{folder}]"]
    assert cli_in_process(command, capsys) == (2, "", [said])


def test_a_page_of_its_own_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path / "one", [RIGHT, WRONG])
    config = ReportConfig([str(tmp_path)], resamples=20)
    page = tmp_path / "report.html"
    assert write_report(config) == f"written: {page}, with 1 run"
    before = page.read_text(encoding="utf-8")
    assert write_report(config) == f"replaced: {page}, with 1 run"
    assert page.read_text(encoding="utf-8") == before
    for taken in ("notes.html", "folder"):
        target = tmp_path / taken
        target.mkdir() if taken == "folder" else target.write_text("my notes", encoding="utf-8")
        with pytest.raises(UserError, match=r"report.output: .* exists and is not a page of this recipe"):
            write_report(ReportConfig([str(tmp_path)], output=str(target)))
    assert (tmp_path / "notes.html").read_text(encoding="utf-8") == "my notes"


def test_tasks_and_splits_have_sections_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [RIGHT, WRONG])
    make_run(tmp_path / "b", [RIGHT, WRONG], task="other")
    make_run(tmp_path / "c", [RIGHT, WRONG], more={"evaluation": {"split": "validation"}})
    page = written(tmp_path)
    for title in ("sentiment", "other", "sentiment, validation rows"):
        assert f"<h2>{title}</h2>" in page
    assert '<section id="sentiment-validation-rows">' in page
    assert page.count("No paired comparisons were made.") == 3


def test_metrics_that_are_gone_leave_the_table_and_are_said(tmp_path: Path) -> None:
    for name, steps in (("a", 1), ("b", 2)):
        task = {"metrics": ["./gone.py"]}
        make_run(tmp_path / name, [RIGHT, WRONG], task_settings=task, more={"training": {"steps": steps}})
    page = written(tmp_path)
    assert "No comparison, because the task&#39;s metrics cannot be loaded: " in page
    assert len(read(page).tables["Results of sentiment"]) == 1 + 3


def test_what_a_row_or_a_folder_says_stays_text(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)> $x_1$"
    make_run(tmp_path / "_a <b> $y$", [evil, RIGHT])
    make_run(tmp_path / "b", [RIGHT, RIGHT], more={"training": {"steps": 3}})
    page = written(tmp_path)
    assert "<img" not in page
    assert read(page).tables["Predictions of sentiment"][1][3] == f"{evil} ✗"
    assert "_a &lt;b&gt; $y$" in page.partition("<svg")[2].partition("</svg>")[0], "the legend has it"


def test_runs_of_other_settings_or_made_twice_are_not_seeds(tmp_path: Path) -> None:
    for name, seed, steps in (
        ("x/s0", 0, 5),
        ("x/s1", 1, 5),
        ("again", 1, 5),
        ("more", 0, 6),
        ("1", 0, 7),
        ("2", 1, 7),
    ):
        make_run(tmp_path / name, [RIGHT], seed, more={"training": {"steps": steps}})
    found = grouped(find_runs([tmp_path])[0])
    assert {name: [run.name for run in own] for name, own in found.items()} == {
        "prompt tuning": ["1", "2"],
        "again and 1 more": ["x/s0", "again"],
        "more": ["more"],
        "x/s1": ["x/s1"],
    }


def rows_of(*numbers: int, prompt: str = "", answer: str = RIGHT) -> dict[tuple[str, str], tuple[str, str]]:
    return {(f"file:{n}", RIGHT): (f"{prompt}{n}", answer) for n in numbers}


def test_each_pair_is_compared_on_the_rows_that_both_have() -> None:
    metrics = load_metrics(["accuracy"])
    answers = {
        "a": [rows_of(*range(20), answer=WRONG)],
        "b": [rows_of(*range(20)), rows_of(*range(20), answer=WRONG)],
        "few": [rows_of(0, 1, 2)],
        "apart": [rows_of(30)],
        "edited": [rows_of(*range(20), prompt="another ")],
    }
    notes: list[str] = []
    found = compare_on_common_rows(answers, dict.fromkeys(answers, "one"), metrics, 50, notes)
    assert {(c.first, c.second): (c.rows, c.difference) for c in found} == {
        ("a", "b"): (20, -0.5),
        ("a", "few"): (3, -1.0),
        ("b", "few"): (3, -0.5),
    }
    apart = "a and apart, a and edited, b and apart, b and edited, few and apart, few and edited and 1 more"
    assert notes == [
        f"Not compared, because they have no common rows: {apart}.",
        "Compared only on common rows, which are fewer than all: a and few (3), b and few (3).",
    ]
    templates = dict.fromkeys(answers, "one") | {"edited": "another"}
    found = compare_on_common_rows(answers, templates, metrics, 50, [])
    assert ("a", "edited") in {(c.first, c.second) for c in found}, "another template words the same row otherwise"


def test_on_equal_rows_the_comparisons_are_those_of_the_library() -> None:
    metrics = load_metrics(["accuracy", "macro_f1"])
    said = {"a": [WRONG] * 5 + [RIGHT] * 5, "b": [RIGHT] * 10, "c": [RIGHT] * 8 + [WRONG] * 2}
    answers = {m: [{(f"f:{n}", RIGHT): ("p", a) for n, a in enumerate(own)}] for m, own in said.items()}
    found = compare_on_common_rows(answers, dict.fromkeys(said, ""), metrics, 100, [])
    stripped = {m: [[a.strip() for a in own]] for m, own in said.items()}
    assert found == compare(stripped, [RIGHT.strip()] * 10, metrics, 100)


def test_rows_on_which_methods_differ_come_first() -> None:
    rows = [(f"f:{n}", "p", "t") for n in range(4)]
    answers = [["t", "t", "u", "t"], ["t", "u", "v", None]]
    scores = [[1.0, 1.0, 0.0, 1.0], [1.0, 0.25, 0.0, None]]
    found = side_by_side(["a", "b"], rows, answers, scores, shown=2)
    assert found.counts == {"score": 1, "text": 1, "same": 2}
    assert [(row.place, row.kind, row.marks) for row in found.rows] == [
        ("f:1", "score", ["✓", "0.25"]),
        ("f:2", "text", ["✗", "✗"]),
    ]
    assert [row.place for row in side_by_side(["a", "b"], rows, answers, scores, shown=4).rows] == [p for p, *_ in rows]


def test_a_long_prompt_keeps_its_ends_and_keys_are_unique() -> None:
    assert cut("x" * LONGEST) == "x" * LONGEST
    assert cut("a" * LONGEST + "bc") == f"{'a' * 300} … (2 characters more) … {'a' * 298}bc"
    assert key_of("mine, test rows") == "mine-test-rows"
    assert key_of("a", ["a", "a-2"]) == "a-3"
    assert key_of("?!") == "task"


def test_runs_of_one_recipe_have_styles_of_their_own() -> None:
    recipes = {f"run{n}": "lora" for n in range(30)} | {"other": "p_tuning"}
    styles = styles_of(recipes)
    assert len(set(styles.values())) == len(recipes)
    assert (styles["run0"], styles["other"]) == (STYLES["lora"], STYLES["p_tuning"])
