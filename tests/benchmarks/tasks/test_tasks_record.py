"""`make tasks` and `make record`: recorded runs are not repeated, and a failed run does not stop the others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.tasks import __main__ as run_tasks, record
from benchmarks.text import put
from helpers import ROOT
from made_result import make_result
from softprompts.errors import UserError
from softprompts.methods.catalog import METHODS

import pytest


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_run(folder: Path, commit: str = "0123abc") -> None:
    """Write the record of a finished run."""
    folder.mkdir(parents=True)
    result = make_result(environment={"commit": commit})
    (folder / "result.json").write_text(json.dumps(asdict(result)), encoding="utf-8")


def test_what_is_recorded_is_not_run_again_and_a_failure_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def launch(recipe: str, config: str, folder: Path) -> int:
        ran.append((recipe, config))
        if recipe == "prefix_tuning":
            return 2
        write_run(folder)
        return 0

    monkeypatch.setattr(run_tasks, "launch", launch)
    kept = tmp_path / "results" / "tasks" / "docstrings"
    kept.mkdir(parents=True)
    configs = tmp_path / "configs" / "docstrings"
    configs.mkdir(parents=True)
    for recipe in ("lora", "prefix_tuning", "p_tuning"):
        (configs / f"{recipe}.yaml").touch()
    (kept / "lora.json").write_text("{}", encoding="utf-8")
    assert run_tasks.main(["docstrings", "lora", "prefix_tuning", "p_tuning", "cpt"]) == 1
    assert ran == [(r, f"configs/docstrings/{r}.yaml") for r in ("prefix_tuning", "p_tuning")]
    assert sorted(p.name for p in kept.iterdir()) == ["lora.json", "p_tuning.json"]
    assert (kept / "lora.json").read_text(encoding="utf-8") == "{}"
    assert "docstrings/prefix_tuning ended with exit code 2" in capsys.readouterr().err


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tasks.main(["docstring"]) == 2
    assert capsys.readouterr().err == 'error: no task and no recipe "docstring" (did you mean "docstrings"?)\n'


def test_every_task_and_recipe_has_a_config() -> None:
    for task in record.TASKS:
        assert (ROOT / "data" / task / "train.jsonl").is_file()
        for recipe in record.RECIPES:
            # Methods for a few examples are a special case, which not every task must show.
            assert METHODS[recipe].what == "few" or (ROOT / "configs" / task / f"{recipe}.yaml").is_file()


def test_a_record_of_uncommitted_code_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", commit="0123abc+changes")
    with pytest.raises(UserError, match="measured with uncommitted changes"):
        record.keep(tmp_path / "run", tmp_path / "kept.json")
    assert not (tmp_path / "kept.json").exists()


def test_an_unfinished_run_leaves_no_record(tmp_path: Path) -> None:
    record.keep(tmp_path / "run", tmp_path / "kept.json")
    assert not (tmp_path / "kept.json").exists()


def test_what_the_demo_printed_is_kept_with_its_records(tmp_path: Path) -> None:
    for recipe in ("hard_prompt", "prompt_tuning"):
        write_run(tmp_path / "runs" / recipe)
    printed = tmp_path / "runs" / record.PRINTED
    printed.write_text("first", encoding="utf-8")
    record.keep_demo(tmp_path / "runs", tmp_path / "kept")
    printed.write_text("second", encoding="utf-8")
    record.keep_demo(tmp_path / "runs", tmp_path / "kept")
    kept = tmp_path / "kept"
    assert sorted(p.name for p in kept.iterdir()) == ["hard_prompt.json", "printed.md", "prompt_tuning.json"]
    assert (kept / record.PRINTED).read_text(encoding="utf-8") == "first"


def test_a_table_goes_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n<!-- y:begin -->\n<!-- y:end -->\n", encoding="utf-8")
    put(page, "x", "| new |")
    put(page, "y", "| other |")
    expected = "a\n<!-- x:begin -->\n| new |\n<!-- x:end -->\nb\n<!-- y:begin -->\n| other |\n<!-- y:end -->\n"
    assert page.read_text(encoding="utf-8") == expected
