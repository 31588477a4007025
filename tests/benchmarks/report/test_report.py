"""`make report`: from a folder of records to the page, or one line if it has no records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.report import __main__ as report
from benchmarks.report.__main__ import ReportConfig, main, read
from helpers import ROOT
from made_benchmark import make_benchmark, make_comparisons
from softprompts.errors import UserError

import pytest


@pytest.mark.slow
def test_all_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "compare_methods", lambda benchmark: make_comparisons(benchmark.name))
    monkeypatch.chdir(tmp_path)
    make_benchmark(Path("results/benchmarks"))
    token = {"tokens": [" a", " b"], "similarities": [0.5, 0.4]}
    clusters = {"learned": (0.5, 0.6), "random": (0.1, 0.2)}
    record = {"k": 2} | {key: [token | {"cluster": c} for c in values] for key, values in clusters.items()}
    Path("results/neighbours").mkdir()
    Path("results/neighbours/sentiment.json").write_text(json.dumps(record), encoding="utf-8")
    main(ReportConfig())
    pages = {path.name: path.read_text(encoding="utf-8") for path in Path("results/report").iterdir()}
    assert sorted(pages) == ["claims.md", "index.html", "papers.md", "summary.md", "tables.md", "targets.md"]
    assert "| prompt tuning | 70.0 ± 1.0 |" in pages["summary.md"]
    assert "![sentiment: seconds](../../docs/figures/sentiment_seconds.png)" in pages["summary.md"]
    assert "**docstrings**: no run is recorded" in pages["summary.md"]
    kinds = ("curves", "forgetting", "memory", "parameters", "seconds", "transfer")
    drawn = ["lester_neighbours.png", *(f"sentiment_{kind}.png" for kind in kinds)]
    assert sorted(p.name for p in Path("docs/figures").iterdir()) == drawn
    assert "| LoRA | 80.0 ± 1.0 |" in pages["tables.md"]
    assert "| prompt tuning − LoRA | accuracy | −10.0 |" in pages["tables.md"]
    assert "| LoRA | learning_rate 0.03 | loss 0.2500 | chosen |" in pages["tables.md"]
    assert "every record of docstrings" in pages["claims.md"]
    assert "## lester_neighbours" in pages["papers.md"]
    assert '<section id="lester_neighbours">' in pages["index.html"]
    assert "results/report/index.html" in capsys.readouterr().out
    main(ReportConfig())
    for name, before in pages.items():
        after = Path("results/report", name).read_text(encoding="utf-8")
        assert after == before, "the same records give the same pages"


def test_the_tasks_come_in_their_order(tmp_path: Path) -> None:
    for task in ("docstrings", "home_commands", "sentiment"):
        make_benchmark(tmp_path, task, seeds=1)
    assert [b.name for b in read(tmp_path)] == ["sentiment", "home_commands", "docstrings"]


def test_a_grid_without_a_run_is_no_record(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path, seeds=1)
    for method in made.cells:
        (tmp_path / "sentiment" / method / "seed0.json").unlink()
    with pytest.raises(UserError, match="holds no record"):
        read(tmp_path)


@pytest.mark.slow
def test_without_records_it_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    script = [sys.executable, "-m", "benchmarks.report"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    ended = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: results/benchmarks: holds no record of a benchmark's run\n"
    assert list(tmp_path.iterdir()) == []
