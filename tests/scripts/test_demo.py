"""The demo from its command line to its last line, with records in place of the recipes' work."""

from __future__ import annotations

import ast
import json
import runpy
from dataclasses import asdict
from pathlib import Path

from helpers import ROOT
from made_result import make_result
from softprompts.metrics.scoring import Interval

import pytest

ROWS = [("a film\nto see", "good"), ("a | bore", "bad"), ("fine", "good")]
ANSWERS = {"hard_prompt": ["bad", "bad", "bad"], "prompt_tuning": ["good", "good", "good"]}


def test_it_prints_the_table_and_where_the_two_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(recipe: str, config: str, folder: Path) -> int:
        assert (ROOT / config).is_file()
        folder.mkdir(parents=True)
        accuracy = {"accuracy": Interval(0.5, 0.4, 0.6, len(ROWS))}
        result = make_result(
            recipe=recipe,
            metrics=accuracy,
            baselines={"majority_class": accuracy},
            notes={"wordings": ["a", "b"]},
            cost={"adapter_bytes": 1024.0, "seconds_total": 9.0},
            settings={"hard": {"shots": 0}, "prompt": {"num_virtual_tokens": 20}, "task": {"where": {}}},
        )
        (folder / "result.json").write_text(json.dumps(asdict(result)))
        lines = [
            json.dumps({"prompt": prompt, "target": target, "prediction": answer})
            for (prompt, target), answer in zip(ROWS, ANSWERS[recipe], strict=True)
        ]
        (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.tasks.launch.launch", launch)
    runpy.run_path(str(ROOT / "scripts" / "demo.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "hard prompt, zero-shot, best of 2 wordings | 50.0 %" in said
    assert "soft prompt, 20 virtual tokens | 50.0 %" in said
    assert "soft prompt minus hard prompt: +33.3 points of accuracy (paired 95 % interval -" in said
    assert "They differ on 3 of 3 test rows: 2 corrected, 1 spoiled." in said
    assert "| a film / to see | good | bad | good |" in said
    assert "| a \\| bore | bad | bad | good |" in said
    assert f"record    {Path('runs/demo/prompt_tuning/result.json')}" in said
    assert said.endswith(Path("runs/demo/printed.md").read_text(encoding="utf-8"))


def test_a_recipe_that_fails_ends_it_with_its_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.tasks.launch.launch", lambda *_: 2)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "demo.py"), run_name="__main__")
    assert ended.value.code == 2


PROGRAMS = [p for name in ("src", "recipes", "benchmarks", "scripts") for p in sorted((ROOT / name).rglob("*.py"))]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_stands_behind_what_starts_a_program(program: Path) -> None:
    """A function that is defined there does not exist yet when the program runs."""
    body = ast.parse(program.read_text(encoding="utf-8")).body
    guards = [n for n, node in enumerate(body) if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)]
    assert guards in ([], [len(body) - 1])
